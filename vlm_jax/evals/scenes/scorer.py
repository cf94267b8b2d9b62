"""POPE, CHAIR and MMHal-style scores of a model on a drawn world, where the truth is known and no judge is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.pipelines import image_prompts
from vlm_jax.data.rows import Row, read_rows
from vlm_jax.data.sources import Prompt
from vlm_jax.errors import InputError
from vlm_jax.evals.chair import scorer as chair
from vlm_jax.evals.mmhal import scorer as mmhal
from vlm_jax.evals.pope import scorer as pope
from vlm_jax.evals.statistics.tally import count_empty
from vlm_jax.generate.answers import answer
from vlm_jax.generate.sampling import Sampling
from vlm_jax.parallel.memory import require_answering
from vlm_jax.runs.progress import Meter
from vlm_jax.scenes.files import mmhal_question, read_scenes
from vlm_jax.scenes.language import INSTRUCTIONS
from vlm_jax.scenes.pope import OFFICIAL, SETTINGS
from vlm_jax.scenes.truth import mentioned_kinds
from vlm_jax.scenes.truth import score as rate
from vlm_jax.scenes.world import Scene, present_kinds


def ask(
    model: Model,
    lora: Params,
    world: Path,
    questions: Sequence[tuple[str, str]],
    sampling: Sampling,
    batch_size: int,
    prompt_lengths: Sequence[int],
    seed: int,
    title: str,
) -> Sequence[str]:
    """Answers to (image file name, question) pairs about a world's images, in order."""
    records = [
        Prompt(id=name, image=world / "images" / name, turns=(Turn("human", f"{IMAGE}\n{text}"),))
        for name, text in questions
    ]
    require_answering(model, batch_size, min(prompt_lengths), sampling.max_new_tokens)
    batches = image_prompts(records, model.tokenizer, model.config, model.template, batch_size, prompt_lengths)
    with Meter(title, len(records)) as meter:
        return answer(model, lora, batches, sampling, seed, meter.update)


def evaluate(
    model: Model,
    lora: Params,
    world: Path,
    split: str,
    batch_size: int,
    prompt_lengths: Sequence[int],
    max_new_tokens: int,
    allow_empty: bool = False,
) -> dict[str, Any]:
    """Greedy answers to a split's questions, scored.

    Args:
        model, lora: Who answers.
        world: Folder of a drawn world.
        split: Of its scenes.
        batch_size: Answers at a time.
        max_new_tokens: Limit of a description.
        allow_empty: Whether a model that says nothing at all has a score: it names no absent object either.

    Returns:
        ``chair`` over one description of every scene, ``mean_length`` of those in words, ``pope`` by setting and
        ``pope_mean`` over POPE's own three, ``mmhal``, and ``descriptions`` (file name -> text). Unlike CHAIR's own
        script, a kind counts once a description, which may name it twice for two things.

    Raises:
        InputError: A file of the world lacks something, or all answers of a kind are empty.
    """
    scenes = {name: here for name, here in read_scenes(world).items() if here.split == split}
    if not scenes:
        raise InputError(f"no {split} scenes", f"a world drawn with --{split}", file=str(world))
    # Before hours of answering: every file that will be asked for.
    yes_no = {setting: _pope_rows(world / f"pope_{split}_{setting}.jsonl", scenes) for setting in SETTINGS}
    open_ended = _mmhal_rows(world / f"mmhal_{split}.json", scenes)
    greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)

    def answers(pairs: Sequence[tuple[str, str]], title: str, sampling: Sampling = greedy) -> Sequence[str]:
        said = ask(model, lora, world, pairs, sampling, batch_size, prompt_lengths, 0, title)
        if not allow_empty and count_empty(said) == len(said):
            raise InputError(f"{len(said)} answers ({title}), all of them empty", "answers, or --allow-empty")
        return said

    described = answers([(name, INSTRUCTIONS[0]) for name in scenes], "describe")
    mentions = [sorted(set(mentioned_kinds(text))) for text in described]
    present = [set(present_kinds(here)) for here in scenes.values()]
    counts = {setting: _pope_counts(setting, rows, answers) for setting, rows in yes_no.items()}
    return {
        "chair": chair.report(mentions, present),
        "mean_length": sum(len(text.split()) for text in described) / len(described),
        "pope": {setting: pope.tally(*one).report() for setting, one in counts.items()},
        "pope_mean": pope.tally(counts[OFFICIAL[0]][0], *(counts[setting][1] for setting in OFFICIAL)).report(),
        "mmhal": _mmhal(open_ended, scenes, answers),
        "descriptions": dict(zip(scenes, described, strict=True)),
    }


def _pope_rows(path: Path, scenes: dict[str, Scene]) -> list[Row]:
    rows = read_rows(path)
    for row in rows:
        row.text(row.require("text"), "the question")
        if row.require("label") not in ("yes", "no"):
            raise row.wrong(f"label {row.values['label']!r}", "yes or no")
        _check_image(row, "image", scenes)
    return rows


def _mmhal_rows(path: Path, scenes: dict[str, Scene]) -> list[Row]:
    rows = read_rows(path)
    for row in rows:
        for key in ("question", "question_type", "gt_answer", "truth"):
            row.require(key)
        _check_image(row, "image_src", scenes)
    return rows


def _check_image(row: Row, key: str, scenes: dict[str, Scene]) -> None:
    if row.require(key) not in scenes:
        raise row.wrong(f"image {row.values[key]!r}", "a scene of this split in scenes.json")


def _pope_counts(setting: str, rows: Sequence[Row], answers: Any) -> tuple[list[str], np.ndarray]:
    # "Yes." and "No." need no more; a model that rambles is judged by its first words, as POPE does.
    brief = Sampling(max_new_tokens=8, temperature=0.0)
    said = answers([(row.values["image"], row.values["text"]) for row in rows], f"POPE {setting}", brief)
    return pope.confusion(
        [pope.parse(text) for text in said],
        [row.values["label"] for row in rows],
        [row.values["image"] for row in rows],
    )


def _mmhal(rows: Sequence[Row], scenes: dict[str, Scene], answers: Any) -> dict[str, Any]:
    questions = [mmhal_question(row.values) for row in rows]
    images = [row.values["image_src"] for row in rows]
    said = answers([(image, question.text) for image, question in zip(images, questions, strict=True)], "MMHal")
    ratings = [
        rate(question, text, scenes[image]).rating
        for image, question, text in zip(images, questions, said, strict=True)
    ]
    return mmhal.score(ratings, [question.type for question in questions])
