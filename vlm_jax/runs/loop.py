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
from jax.sharding import Mesh

from vlm_jax.errors import DivergedError, TerminatedError
from vlm_jax.parallel.agreement import any_process
from vlm_jax.parallel.compile import place_batch
from vlm_jax.parallel.hosts import require_met
from vlm_jax.parallel.mesh import shardings
from vlm_jax.runs.begin import Run
from vlm_jax.runs.log import MetricLog
from vlm_jax.runs.progress import Meter
from vlm_jax.runs.state import RunState
from vlm_jax.runs.termination import on_termination
from vlm_jax.runs.unmoved import watch
from vlm_jax.train.optim import TrainState

Step = Callable[[TrainState, Any], tuple[TrainState, Mapping[str, Any]]]


@dataclasses.dataclass(frozen=True)
class Pace:
    """How long a run goes on, and how often it saves and speaks.

    ``shown`` names the metrics that the progress line shows; ``bounds`` gives the largest value of metrics that stop a
    run beyond it.
    """

    title: str
    steps: int
    save_every: int = 100
    log_every: int = 10
    shown: tuple[str, ...] = ("loss",)
    bounds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def train(
    run: Run,
    pace: Pace,
    mesh: Mesh,
    state: TrainState,
    step: Step,
    batches: Iterable[Any],
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
        log = MetricLog(run.folder, first) if jax.process_index() == 0 else None
        try:
            with Meter(pace.title, pace.steps, first) as meter:
                for number in range(first, pace.steps):
                    state, metrics = step(state, place_batch(mesh, next(iterator)))
                    done = number + 1
                    # Asked once: the signal may come at any moment of what follows.
                    stopping = asked()
                    due = done % pace.save_every == 0 or done == pace.steps or stopping
                    if due or done % pace.log_every == 0:
                        _report(pace, number, metrics, log, meter)
                        unmoved = unmoved and unmoved.after(state, final=due)
                    if due:
                        saved.save(done, state, iterator.get_state())
                    if stopping:
                        saved.wait()
                        raise TerminatedError(f"terminated; step {done} of {pace.steps} is saved")
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


def _report(pace: Pace, number: int, metrics: Mapping[str, Any], log: MetricLog | None, meter: Meter) -> None:
    values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
    odd = [name for name, value in values.items() if not math.isfinite(value)]
    if odd:
        raise DivergedError(f"step {number}: {', '.join(odd)} is not finite")
    if beyond := [name for name, most in pace.bounds.items() if values[name] > most]:
        found = ", ".join(f"{name} {values[name]:.3g} (at most {pace.bounds[name]:g})" for name in beyond)
        raise DivergedError(f"step {number}: {found}")
    if log is not None:
        log.write(number, values)
    meter.update(number + 1, {name: values[name] for name in pace.shown})
