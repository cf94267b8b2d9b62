"""The page about models that were aligned on a drawn world, from the folders of their runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from vlm_jax.evals.chair import scorer as chair
from vlm_jax.files import read_json_lines
from vlm_jax.report.gallery import pictures
from vlm_jax.report.page import write_page
from vlm_jax.runs.log import read_metrics
from vlm_jax.scenes.files import prompt_question, read_scenes
from vlm_jax.scenes.truth import mentioned_kinds
from vlm_jax.scenes.world import present_kinds

_PICTURES = 12


class Aligned(NamedTuple):
    """One alignment: ``folder`` holds the runs ``reward`` and ``ppo``, the rest tells of its reward model."""

    folder: Path
    accuracy: float
    held_out: int
    resolution: int
    facts: bool


def write_alignment(
    page: Path,
    world: Path,
    models: Mapping[str, Mapping[str, Any]],
    aligned: Mapping[str, Aligned],
    made: Mapping[str, Any],
) -> None:
    """Write the page.

    Args:
        page: The file.
        world: Folder of the drawn world.
        models: Scores by the name that is shown.
        aligned: Those of them that were aligned.
        made: Seed, seconds, dials, versions and settings of the whole.
    """
    curves, rewards = {}, {}
    for name, one in aligned.items():
        sampled = {row["step"]: row for row in sampled_hallucination(world, one.folder / "ppo" / "answers")}
        rows = read_metrics(one.folder / "ppo" / "metrics.jsonl")
        curves[name] = [row | sampled.get(row["step"], {}) for row in rows]
        curves[f"{name} reward model"] = read_metrics(one.folder / "reward" / "metrics.jsonl")
        rewards[f"{name} reward model"] = {
            "held_out_accuracy": one.accuracy,
            "held_out_pairs": one.held_out,
            "resolution": one.resolution,
            "facts": one.facts,
        }
    gallery = pictures(world, {name: score["descriptions"] for name, score in models.items()}, _PICTURES)
    write_page(page, {"models": models, "reward_models": rewards, "made": made}, curves, gallery)


def sampled_hallucination(world: Path, answers: Path) -> list[dict]:
    """CHAIR_i and recall of the descriptions that each PPO rollout sampled, by step.

    Args:
        world: Folder of the drawn world.
        answers: Folder of the rollouts' answers.
    """
    scenes = {Path(file).stem: here for file, here in read_scenes(world).items()}
    rows = []
    for step, path in enumerate(sorted(answers.glob("*.jsonl"))):
        described = [one for one in read_json_lines(path) if prompt_question(scenes[one["id"]]).type == "holistic"]
        mentions = [sorted(set(mentioned_kinds(one["answer"]))) for one in described]
        scored = chair.report(mentions, [set(present_kinds(scenes[one["id"]])) for one in described])
        rows.append({"step": step, "sampled_chair_i": scored["chair_i"], "sampled_recall": scored["recall"]})
    return rows
