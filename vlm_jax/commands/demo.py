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

from vlm_jax.commands.demo_options import (
    ALIGNED,
    MODELS,
    Options,
    check_sizes,
    held_out,
    ppo_options,
    reward_options,
)


def run(options: Options) -> None:
    from vlm_jax.files import read_json, write_json
    from vlm_jax.report.tables import print_scores
    from vlm_jax.runs.begin import begin

    check_sizes(options)
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
    pairs = read_preferences(world / "preferences.json", world / "images")[-held_out(options) :]
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
    from vlm_jax.report.aligned_models import Aligned, write_alignment

    shown = {"sft": "the starting model", "rlhf": "RLHF", "fact_rlhf": "Fact-RLHF"}
    aligned = {
        shown[name]: Aligned(
            folder=options.out / name,
            accuracy=scores[name]["reward_accuracy"],
            held_out=held_out(options),
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
