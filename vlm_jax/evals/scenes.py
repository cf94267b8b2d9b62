"""POPE, CHAIR and MMHal-style scores of a model on a drawn world, where the truth is known and no judge is needed."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.pipelines import image_prompts
from vlm_jax.data.rows import Row, read_rows
from vlm_jax.data.sources import Prompt
from vlm_jax.errors import InputError
from vlm_jax.evals import chair, mmhal, pope
from vlm_jax.generate.answers import answer
from vlm_jax.generate.sampling import Sampling
from vlm_jax.scenes.files import mmhal_question, read_scenes
from vlm_jax.scenes.language import INSTRUCTIONS
from vlm_jax.scenes.pope import SETTINGS
from vlm_jax.scenes.truth import mentioned_kinds
from vlm_jax.scenes.truth import score as rate
from vlm_jax.scenes.world import Scene, present_kinds
from vlm_jax.train.log import Meter

# Every question of the world with its image fits one of these.
_BUCKETS = (32, 48)


def ask(
    model: Model,
    lora: Params,
    world: Path,
    questions: Sequence[tuple[str, str]],
    sampling: Sampling,
    batch_size: int,
    seed: int,
    title: str,
) -> Sequence[str]:
    """Answers to (image file name, question) pairs about a world's images, in order."""
    records = [
        Prompt(id=name, image=world / "images" / name, turns=(Turn("human", f"{IMAGE}\n{text}"),))
        for name, text in questions
    ]
    batches = image_prompts(records, model.tokenizer, model.config, model.template, batch_size, _BUCKETS)
    with Meter(title, len(records)) as meter:
        return answer(
            model.config, model.base, lora, model.tokenizer, model.mesh, batches, sampling, seed, meter.update
        )


def evaluate(
    model: Model, lora: Params, world: Path, split: str = "test", batch_size: int = 128, max_new_tokens: int = 56
) -> dict[str, Any]:
    """Greedy answers to a split's questions, scored.

    Returns:
        ``chair`` over one description of every scene, ``mean_length`` of those in words, ``pope`` by setting,
        ``mmhal``, and ``descriptions`` (file name -> text). Mentions are counted as sets, one a kind, since a
        description may name a kind twice for two things.
    """
    scenes = {name: here for name, here in read_scenes(world).items() if here.split == split}
    if not scenes:
        raise InputError(f"no {split} scenes", f"a world drawn with --{split}", file=str(world))
    # Before hours of answering: every file that will be asked for.
    yes_no = {setting: read_rows(world / f"pope_{split}_{setting}.jsonl") for setting in SETTINGS}
    open_ended = read_rows(world / f"mmhal_{split}.json")
    greedy = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)

    def answers(pairs: Sequence[tuple[str, str]], title: str, sampling: Sampling = greedy) -> Sequence[str]:
        return ask(model, lora, world, pairs, sampling, batch_size, 0, title)

    described = answers([(name, INSTRUCTIONS[0]) for name in scenes], "describe")
    mentions = [sorted(set(mentioned_kinds(text))) for text in described]
    present = [set(present_kinds(here)) for here in scenes.values()]
    return {
        "chair": chair.score(mentions, present),
        "mean_length": sum(len(text.split()) for text in described) / len(described),
        "pope": {setting: _pope(setting, rows, answers) for setting, rows in yes_no.items()},
        "mmhal": _mmhal(open_ended, scenes, answers),
        "descriptions": dict(zip(scenes, described, strict=True)),
    }


def _pope(setting: str, rows: Sequence[Row], answers: Any) -> dict[str, Any]:
    # "Yes." and "No." need no more; a model that rambles is judged by its first words, as POPE does.
    brief = Sampling(max_new_tokens=8, temperature=0.0)
    said = answers([(row.require("image"), row.require("text")) for row in rows], f"POPE {setting}", brief)
    return pope.score(said, [row.require("label") for row in rows])


def _mmhal(rows: Sequence[Row], scenes: dict[str, Scene], answers: Any) -> dict[str, Any]:
    questions = [mmhal_question(row.values) for row in rows]
    images = [row.require("image_src") for row in rows]
    said = answers([(image, question.text) for image, question in zip(images, questions, strict=True)], "MMHal")
    ratings = [
        rate(question, text, scenes[image]).rating
        for image, question, text in zip(images, questions, said, strict=True)
    ]
    return mmhal.score(ratings, [question.type for question in questions])
