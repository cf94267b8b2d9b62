"""The impure part of every training run: read batches, call the step, log, save, resume.

What is computed lives in the step, a compiled function (or, for PPO, two with a stop on the host); this file knows
nothing about it.
"""

import contextlib
import dataclasses
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.experimental import multihost_utils
from jax.sharding import Mesh

from vlm_jax.errors import DivergedError, TerminatedError
from vlm_jax.parallel.agreement import any_process
from vlm_jax.parallel.compile import place_batch
from vlm_jax.parallel.hosts import require_met
from vlm_jax.parallel.mesh import shardings
from vlm_jax.runs.begin import Run
from vlm_jax.runs.log import MetricLog
from vlm_jax.runs.metering import Clock
from vlm_jax.runs.milestones import PREFIX, Kept, Milestones
from vlm_jax.runs.profile import Profile
from vlm_jax.runs.progress import Meter
from vlm_jax.runs.state import RunState
from vlm_jax.runs.termination import on_termination
from vlm_jax.runs.unmoved import watch
from vlm_jax.runs.work import Count
from vlm_jax.train.optim import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long a run goes on, and how often it saves and speaks.

    ``shown`` names the metrics that the progress line shows; ``bounds`` gives the largest value of metrics that stop a
    run beyond it; ``count`` says what a batch is in work, for the log of speed; ``profile`` is a number of steps.
    """

    title: str
    steps: int
    save_every: int = 100
    log_every: int = 10
    shown: tuple[str, ...] = ("loss",)
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)
    count: Count | None = None
    profile: int | None = None


def train(
    run: Run,
    pace: Pace,
    mesh: Mesh,
    state: TrainState,
    step: Step,
    batches: Iterable[Any],
    milestones: Milestones | None = None,
) -> TrainState:
    """Run ``step`` until ``pace.steps``, from the newest checkpoint in the run's folder if there is one.

    Several processes run it together, in a folder that all of them see; the first one keeps the log.

    Args:
        run: Its folder, and what decides it; resuming with something else is refused.
        pace: Length and rhythm.
        mesh: Where batches go; the state lies there already.
        state: The first state. Its buffers are donated.
        step: ``(state, batch on the mesh) -> (state, scalar metrics)``.
        batches: Iterable whose iterator has ``get_state`` and ``set_state`` (grain).
        milestones: What is looked at and kept on the way.

    Raises:
        InputError: The folder holds a run with other settings.
        DivergedError: A metric became infinite, not a number or larger than its bound, or a trained leaf does not
            move; the last checkpoint is from before.
        TerminatedError: SIGTERM came, to whichever process; the step that it came in, or the next one, is finished and
            saved by all.
    """
    require_met()
    with _termination(mesh) as asked, RunState(run.folder, run.made) as saved, jax.set_mesh(mesh):
        state, iterator, first = _resume(saved, mesh, state, iter(batches))
        unmoved = watch(state)
        kept = _kept(run, milestones or Milestones(), state, first, first == pace.steps)
        log = MetricLog(run.folder, first) if jax.process_index() == 0 else None
        clock, profile = Clock(mesh, pace.count), Profile(run.folder, pace.profile, first, pace.steps)
        try:
            with Meter(pace.title, pace.steps, first) as meter, profile:
                for number in range(first, pace.steps):
                    batch = clock.next_batch(iterator)
                    state, metrics = step(state, place_batch(mesh, batch))
                    clock.stepped(metrics)
                    done, final = number + 1, number + 1 == pace.steps
                    profile.after(done, metrics)
                    # Asked once: the signal may come at any moment of what follows.
                    stopping = asked()
                    looked_at = kept.measures(done, final)
                    due = done % pace.save_every == 0 or final or stopping or kept.due(done, final)
                    if not (due or looked_at or done % pace.log_every == 0):
                        continue
                    values = _checked(pace, number, metrics)
                    speed = clock.read(values)
                    if looked_at:
                        values |= _finite(number, kept.measured(state.params))
                    _report(pace, number, values, speed, log, meter)
                    unmoved = unmoved and unmoved.after(state, final=due)
                    if due:
                        saved.save(done, state, iterator.get_state())
                    if kept.due(done, final):
                        saved.wait()
                        kept.write(done, state.params, values)
                    if stopping:
                        saved.wait()
                        raise TerminatedError(f"terminated; step {done} of {pace.steps} is saved")
                    clock.restart()
        finally:
            if log is not None:
                log.close()
    return state


@contextlib.contextmanager
def _termination(mesh: Mesh) -> Iterator[Callable[[], bool]]:
    """Asked after each step: whether SIGTERM came, in place of ending the process in the middle of one."""
    asked = threading.Event()
    with on_termination(asked.set):
        yield asked.is_set if jax.process_count() == 1 else any_process(mesh, asked.is_set)


def _resume(saved: RunState, mesh: Mesh, state: TrainState, iterator: Iterator) -> tuple[TrainState, Iterator, int]:
    """The newest saved state, its place in the data and its step; the given ones at step 0 where nothing is saved."""
    if saved.latest_step is None:
        return state, iterator, 0
    abstract = jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        shardings(mesh, state),
    )
    restored = saved.restore(abstract)
    iterator.set_state(restored.data_state)
    return restored.state, iterator, restored.step


def _kept(run: Run, milestones: Milestones, state: TrainState, first: int, final: bool) -> Kept:
    """What is kept on the way; what a kill kept from being written when the state of step ``first`` was saved, is."""
    kept = Kept(run.folder, milestones)
    if jax.process_count() > 1:
        # Before the first process writes there.
        multihost_utils.sync_global_devices("kept")
    if first and kept.due(first, final):
        values = kept.measured(state.params) if kept.measures(first, final) else {}
        kept.write(first, state.params, _finite(first - 1, values))
    return kept


def _checked(pace: Pace, number: int, metrics: Mapping[str, Any]) -> dict[str, float]:
    values = _finite(number, {name: float(value) for name, value in jax.device_get(dict(metrics)).items()})
    if beyond := [name for name, most in pace.bounds.items() if values[name] > most]:
        found = ", ".join(f"{name} {values[name]:.3g} (at most {pace.bounds[name]:g})" for name in beyond)
        raise DivergedError(f"step {number}: {found}")
    return values


def _finite(number: int, values: dict[str, float]) -> dict[str, float]:
    if odd := [name for name, value in values.items() if not math.isfinite(value)]:
        raise DivergedError(f"step {number}: {', '.join(odd)} is not finite")
    return values


# What the progress line calls them.
_SPEEDS = {"tokens_per_second": "tokens/s", "mfu": "MFU"}


def _report(
    pace: Pace,
    number: int,
    values: Mapping[str, float],
    speed: Mapping[str, int | float],
    log: MetricLog | None,
    meter: Meter,
) -> None:
    if log is not None:
        log.write(number, values, speed)
    shown = {name: values[name] for name in pace.shown}
    shown |= {name: value for name, value in values.items() if name.startswith(PREFIX)}
    meter.update(number + 1, shown | {_SPEEDS[name]: speed[name] for name in _SPEEDS if name in speed})
