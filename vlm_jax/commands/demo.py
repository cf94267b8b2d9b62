"""Align the tiny model that ships with the package against hallucination, end to end, on images drawn for it.

Draws a world, samples pairs of answers and has them annotated, trains a reward model without and one with factual
captions, runs PPO against each, scores the starting model and both results on held-out images, prints a table and
writes OUT/report.html and OUT/results.json. Every part is one of the other verbs on files in OUT, and the same command
goes on where a stopped one left off.
"""

import contextlib
import dataclasses
import io
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from vlm_jax.scenes.world import STANDARD_DIALS, Dials

if TYPE_CHECKING:
    from vlm_jax.commands import reward


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        out: Folder for everything.
        seed: Of the world, the annotators and the training.
        resolution: Pixels a side that the reward models see (the tiny model sees 48): reward models that see perfectly
            need no facts.
        preference: Scenes whose answers are compared.
        prompts: Scenes that PPO asks about.
        validation: Scenes to choose settings on; scored only where there are no test scenes.
        test: Held-out scenes to report.
        reward_epochs: Passes over the pairs.
        ppo_steps: Rollouts of each PPO run.
        dials: Planted causes of hallucination, as far as they lie in images and annotators: what the tiny model has
            learnt from its own training data is fixed.
    """

    out: Path = Path("runs/demo")
    seed: int = 0
    resolution: int = 16
    preference: int = 3600
    prompts: int = 2400
    validation: int = 0
    test: int = 300
    reward_epochs: float = 1.0
    ppo_steps: int = 20
    dials: Dials = STANDARD_DIALS


MODELS = {"sft": None, "rlhf": False, "fact_rlhf": True}  # Whether the reward model reads facts.
# Share of the preference scenes' pairs that only measures the reward models.
_HELD_OUT = 1 / 8
# Fewer pairs than a batch cannot be trained on; fewer scenes may hold no POPE question.
_FEWEST, _FEWEST_SCORED = 100, 20
# Parts whose arrays fit the cache of a core.
_MICROBATCHES = 8


def run(options: Options) -> None:
    from vlm_jax.files import read_json, write_json
    from vlm_jax.report.tables import print_scores
    from vlm_jax.runs.begin import begin

    _check_sizes(options)
    path, clock = options.out / "results.json", options.out / "seconds.json"
    begun = begin(options, path, options.out / "run.json", "tiny")
    if begun.finished():
        results, scores = read_json(path), align(options)
    else:
        begun.claim()
        before, began = read_json(clock)["wall_s"] if clock.exists() else 0.0, time.monotonic()
        try:
            scores = align(options)
        finally:
            # A run that was stopped took the time of both.
            seconds = before + time.monotonic() - began
            write_json(clock, {"wall_s": round(seconds, 1)})
        results = summarise(options, scores, seconds)
        write_json(path, results)
    print_scores(scores)
    print(f"{path}\n{write_report(options, results, scores)}")


def _check_sizes(options: Options) -> None:
    from vlm_jax.errors import InputError, require_positive

    require_positive(options, "resolution", "prompts", "reward_epochs", "ppo_steps")
    if options.preference < _FEWEST:
        raise InputError(f"{options.preference} preference scenes", f"at least {_FEWEST}")
    if (options.test or options.validation) < _FEWEST_SCORED:
        found = f"{options.test} test and {options.validation} validation scenes"
        raise InputError(found, f"at least {_FEWEST_SCORED} of one of them")


def align(options: Options) -> dict[str, dict]:
    """The whole road on files in ``options.out``; the scores of the three models.

    The three branches share nothing but the pairs, so two run at a time, each on half of the cores: the tiny model's
    arrays are too small to keep many cores busy.
    """
    from vlm_jax.commands import annotate
    from vlm_jax.commands import scenes as drawing

    world = options.out / "world"
    sizes = {"train": 0, "preference": options.preference, "prompts": options.prompts}
    sizes |= {"validation": options.validation, "test": options.test}
    drawing.run(drawing.Options(out=world, seed=options.seed, dials=options.dials, **sizes))
    annotate.run(annotate.Options(checkpoint="tiny", world=world, seed=options.seed))
    context = multiprocessing.get_context("spawn")
    # Without a lock: a signal's handler must not wait for one.
    ended = context.Value("b", 0, lock=False)
    shared = (context.Value("i", 0), ended)
    with _passing_on_termination(ended), ProcessPoolExecutor(2, context, _take_share, shared) as pool:
        # The longest first.
        waiting = {name: pool.submit(branch, options, name) for name in reversed(MODELS)}
        return {name: waiting[name].result() for name in MODELS}


@contextlib.contextmanager
def _passing_on_termination(ended: Any) -> Iterator[None]:
    """SIGTERM goes to the workers: one that trains saves where it stands and ends, another ends at once.

    Args:
        ended: Set to 1, which keeps a worker that has saved from beginning the next branch: the pool has handed that
            to it already, so that cancelling comes too late.

    Raises:
        TerminatedError: It came.
    """
    from vlm_jax.errors import TerminatedError

    asked = threading.Event()

    def pass_on(*_: Any) -> None:
        asked.set()
        ended.value = 1
        for worker in multiprocessing.active_children():
            worker.terminate()

    before = signal.signal(signal.SIGTERM, pass_on)
    try:
        yield
    except BrokenProcessPool:
        if not asked.is_set():
            raise
        raise TerminatedError("terminated") from None
    finally:
        signal.signal(signal.SIGTERM, before)


def _held_out(options: Options) -> int:
    return round(options.preference * _HELD_OUT)


# In a worker, what SIGTERM sets to 1.
_ended: Any = None


def _take_share(started: Any, ended: Any) -> None:
    """Begin a worker on its half of the cores; where two share a GPU, neither may take all of its memory.

    A worker whose parent was killed must not go on: the next run would write the same files.
    """
    global _ended
    _ended, parent = ended, multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number::2] or cores)


class _Named(io.TextIOBase):
    """Standard output with a name before every line, so that two branches can talk at once."""

    def __init__(self, name: str, stream: TextIO):
        self._name, self._stream, self._line = name, stream, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._stream.write(f"{self._name:9} | {line}\n")
        self._stream.flush()
        return len(text)


def branch(options: Options, name: str) -> dict:
    """Reward model, PPO and evaluation of one of ``MODELS``; the starting model is only evaluated.

    Raises:
        TerminatedError: SIGTERM came, perhaps before this began.
    """
    from vlm_jax.commands import ppo, reward
    from vlm_jax.commands.eval import scenes
    from vlm_jax.errors import TerminatedError

    if _ended is not None and _ended.value:
        raise TerminatedError("terminated")
    out, world, adapter = options.out / name, options.out / "world", None
    with_facts = MODELS[name]
    with contextlib.redirect_stdout(_Named(name, sys.stdout)):
        if with_facts is not None:
            adapter = out / "ppo" / "adapter"
            ranking = reward_options(options, name)
            reward.run(ranking)
            ppo.run(
                ppo.Options(
                    checkpoint="tiny",
                    reward=out / "reward" / "adapter",
                    prompts=world / "prompts.json",
                    images=world / "images",
                    out=out / "ppo",
                    view=ranking.view,
                    steps=options.ppo_steps,
                    # Fresh answers teach more than a second pass over old ones, and cost this model the same.
                    epochs=1,
                    microbatches=_MICROBATCHES,
                    suffix_length=152 if with_facts else 24,
                    seed=options.seed,
                )
            )
        split = "test" if options.test else "validation"
        scored = scenes.Options(
            checkpoint="tiny", world=world, output=out / "scores.json", adapter=adapter, split=split
        )
        return scenes.measure(scored) | {"reward_accuracy": _reward_accuracy(options, name)}


def reward_options(options: Options, name: str) -> "reward.Options":
    """How the reward model of one of ``MODELS`` is trained."""
    from vlm_jax.commands import reward

    world, with_facts = options.out / "world", MODELS[name]
    facts = world / "image_to_caption.json" if with_facts else None
    return reward.Options(
        checkpoint="tiny",
        preferences=world / "preferences.json",
        images=world / "images",
        out=options.out / name / "reward",
        view=reward.RewardView(facts=facts, resolution=options.resolution),
        verdict=("Yes", "No"),
        epochs=options.reward_epochs,
        microbatches=_MICROBATCHES,
        max_length=184 if with_facts else 96,
        held_out=_held_out(options),
        seed=options.seed,
    )


def _reward_accuracy(options: Options, name: str) -> float:
    """Held-out pairs ranked as the annotators did: by the reward model, or by the starting model's own likelihood."""
    import json

    from vlm_jax.checkpoints.opening import open_model, open_role
    from vlm_jax.data.sources import read_preferences
    from vlm_jax.evals.answering.likelihood import preference_accuracy

    if MODELS[name] is not None:
        path = options.out / name / "reward" / "results.json"
        return json.loads(path.read_text(encoding="utf-8"))["held_out_accuracy"]
    model = open_model("tiny")
    world = options.out / "world"
    pairs = read_preferences(world / "preferences.json", world / "images")[-_held_out(options) :]
    return preference_accuracy(model, open_role(model, None)["lora"], pairs, max_length=88)


def summarise(options: Options, scores: dict[str, dict], seconds: float) -> dict:
    """What results.json holds."""
    from vlm_jax.report.tables import summary
    from vlm_jax.runs.begin import identity
    from vlm_jax.versions import versions

    return {
        "models": {name: summary(score) for name, score in scores.items()},
        "seed": options.seed,
        "wall_s": round(seconds, 1),
        "versions": versions(),
        "options": {name: value for name, value in identity(options)["options"].items() if name != "out"},
    }


def sampled_hallucination(options: Options, name: str) -> list[dict]:
    """CHAIR_i and recall of the descriptions that each PPO rollout sampled, by step."""
    from vlm_jax.evals.chair import scorer as chair
    from vlm_jax.files import read_json_lines
    from vlm_jax.scenes.files import prompt_question, read_scenes
    from vlm_jax.scenes.truth import mentioned_kinds
    from vlm_jax.scenes.world import present_kinds

    scenes = {Path(file).stem: here for file, here in read_scenes(options.out / "world").items()}
    rows = []
    for step, path in enumerate(sorted((options.out / name / "ppo" / "answers").glob("*.jsonl"))):
        answers = read_json_lines(path)
        described = [one for one in answers if prompt_question(scenes[one["id"]]).type == "holistic"]
        mentions = [sorted(set(mentioned_kinds(one["answer"]))) for one in described]
        scored = chair.report(mentions, [set(present_kinds(scenes[one["id"]])) for one in described])
        rows.append({"step": step, "sampled_chair_i": scored["chair_i"], "sampled_recall": scored["recall"]})
    return rows


def write_report(options: Options, results: dict, scores: dict[str, dict]) -> Path:
    """The page; returns its path."""
    from vlm_jax.report.gallery import pictures
    from vlm_jax.report.page import write_page
    from vlm_jax.runs.log import read_metrics

    shown = {"sft": "the starting model", "rlhf": "RLHF", "fact_rlhf": "Fact-RLHF"}
    aligned = [name for name, facts in MODELS.items() if facts is not None]
    curves, rewards = {}, {}
    for name in aligned:
        folder = options.out / name
        sampled = {row["step"]: row for row in sampled_hallucination(options, name)}
        rows = read_metrics(folder / "ppo" / "metrics.jsonl")
        curves[shown[name]] = [row | sampled.get(row["step"], {}) for row in rows]
        curves[f"{shown[name]} reward model"] = read_metrics(folder / "reward" / "metrics.jsonl")
        rewards[f"{shown[name]} reward model"] = {
            "held_out_accuracy": scores[name]["reward_accuracy"],
            "held_out_pairs": _held_out(options),
            "resolution": options.resolution,
            "facts": MODELS[name],
        }
    models = {shown[name]: score for name, score in scores.items()}
    made = {
        "seed": results["seed"],
        "seconds": results["wall_s"],
        "dials": dataclasses.asdict(options.dials),
        "versions": results["versions"],
        "settings": results["options"],
    }
    page = options.out / "report.html"
    gallery = pictures(options.out / "world", {name: score["descriptions"] for name, score in models.items()}, 12)
    write_page(page, {"models": models, "reward_models": rewards, "made": made}, curves, gallery)
    return page
