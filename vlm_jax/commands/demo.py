"""Align the tiny model that ships with the package against hallucination, end to end, on images drawn for it.

Draws a world, samples pairs of answers and has them annotated, trains a reward model without and one with factual
captions, runs PPO against each, scores the starting model and both results on held-out images, prints a table and
writes OUT/report.html and OUT/results.json. Every part is one of the other verbs on files in OUT, and the same command
goes on where a stopped one left off.
"""

import dataclasses
import functools
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vlm_jax.commands.reward_view import RewardView
from vlm_jax.ranges import LARGEST_COUNT, LARGEST_SEED, Range
from vlm_jax.scenes.world import STANDARD_DIALS, Dials

if TYPE_CHECKING:
    from vlm_jax.commands import ppo, reward


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
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    resolution: Annotated[int, Range(1, 1 << 14)] = 16
    preference: Annotated[int, Range(0, 10_000_000)] = 3600
    prompts: Annotated[int, Range(1, 10_000_000)] = 2400
    validation: Annotated[int, Range(0, 10_000_000)] = 0
    test: Annotated[int, Range(0, 10_000_000)] = 300
    reward_epochs: Annotated[float, Range(0, 1e6, open=True)] = 1.0
    ppo_steps: Annotated[int, Range(1, LARGEST_COUNT)] = 20
    dials: Dials = STANDARD_DIALS


# What each model that is scored was aligned with.
MODELS: dict[str, Literal["nothing", "images", "images and facts"]] = {
    "sft": "nothing",
    "rlhf": "images",
    "fact_rlhf": "images and facts",
}
ALIGNED = tuple(name for name, read in MODELS.items() if read != "nothing")
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
    from vlm_jax.errors import InputError

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
    from vlm_jax.runs.side_by_side import side_by_side

    world = options.out / "world"
    sizes = {"train": 0, "preference": options.preference, "prompts": options.prompts}
    sizes |= {"validation": options.validation, "test": options.test}
    drawing.run(drawing.Options(out=world, seed=options.seed, dials=options.dials, **sizes))
    annotate.run(annotate.Options(checkpoint="tiny", world=world, seed=options.seed))
    # The longest first.
    scores = side_by_side({name: functools.partial(branch, options, name) for name in reversed(MODELS)})
    return {name: scores[name] for name in MODELS}


def _held_out(options: Options) -> int:
    return round(options.preference * _HELD_OUT)


def branch(options: Options, name: str) -> dict:
    """Reward model, PPO and evaluation of one of ``MODELS``; the starting model is only evaluated."""
    from vlm_jax.commands import ppo, reward
    from vlm_jax.commands.eval import scenes

    adapter = None
    if name in ALIGNED:
        reward.run(reward_options(options, name))
        ppo.run(ppo_options(options, name))
        adapter = options.out / name / "ppo" / "adapter"
    scored = scenes.Options(
        checkpoint="tiny",
        world=options.out / "world",
        output=options.out / name / "scores.json",
        adapter=adapter,
        split="test" if options.test else "validation",
    )
    return scenes.measure(scored) | {"reward_accuracy": _reward_accuracy(options, name)}


def _view(options: Options, name: str) -> RewardView:
    facts = options.out / "world" / "image_to_caption.json" if MODELS[name] == "images and facts" else None
    return RewardView(facts=facts, resolution=options.resolution)


def reward_options(options: Options, name: str) -> "reward.Options":
    """How the reward model of one of ``ALIGNED`` is trained."""
    from vlm_jax.commands import reward

    return reward.Options(
        checkpoint="tiny",
        preferences=options.out / "world" / "preferences.json",
        images=options.out / "world" / "images",
        out=options.out / name / "reward",
        view=_view(options, name),
        verdict=("Yes", "No"),
        epochs=options.reward_epochs,
        microbatches=_MICROBATCHES,
        held_out=_held_out(options),
        seed=options.seed,
    )


def ppo_options(options: Options, name: str) -> "ppo.Options":
    """How the policy of one of ``ALIGNED`` is trained."""
    from vlm_jax.commands import ppo

    return ppo.Options(
        checkpoint="tiny",
        reward=options.out / name / "reward" / "adapter",
        prompts=options.out / "world" / "prompts.json",
        images=options.out / "world" / "images",
        out=options.out / name / "ppo",
        view=_view(options, name),
        steps=options.ppo_steps,
        # Fresh answers teach more than a second pass over old ones, and cost this model the same.
        epochs=1,
        microbatches=_MICROBATCHES,
        seed=options.seed,
    )


def _reward_accuracy(options: Options, name: str) -> float:
    """Held-out pairs ranked as the annotators did: by the reward model, or by the starting model's own likelihood."""
    from vlm_jax.checkpoints.opening import open_model, open_role
    from vlm_jax.data.sources import read_preferences
    from vlm_jax.evals.answering.likelihood import preference_accuracy
    from vlm_jax.files import read_json
    from vlm_jax.recipes import read

    if name in ALIGNED:
        return read_json(options.out / name / "reward" / "results.json")["held_out_accuracy"]
    model = open_model("tiny")
    world, max_length = options.out / "world", read("scenes-tiny/reward").options["max_length"]
    pairs = read_preferences(world / "preferences.json", world / "images")[-_held_out(options) :]
    return preference_accuracy(model, open_role(model, None)["lora"], pairs, max_length)


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


def write_report(options: Options, results: dict, scores: dict[str, dict]) -> Path:
    """The page; returns its path."""
    from vlm_jax.report.alignment import Aligned, write_alignment

    shown = {"sft": "the starting model", "rlhf": "RLHF", "fact_rlhf": "Fact-RLHF"}
    aligned = {
        shown[name]: Aligned(
            folder=options.out / name,
            accuracy=scores[name]["reward_accuracy"],
            held_out=_held_out(options),
            resolution=options.resolution,
            facts=MODELS[name] == "images and facts",
        )
        for name in ALIGNED
    }
    made = {
        "seed": results["seed"],
        "seconds": results["wall_s"],
        "dials": dataclasses.asdict(options.dials),
        "versions": results["versions"],
        "settings": results["options"],
    }
    page = options.out / "report.html"
    write_alignment(page, options.out / "world", {shown[name]: score for name, score in scores.items()}, aligned, made)
    return page
