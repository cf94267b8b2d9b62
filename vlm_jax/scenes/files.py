"""The drawn world on disk, in the layouts of the real data sets.

A folder holds ``images/`` (one PNG a scene, ``train_000000123.png``), ``scenes.json`` (the truth), and per use:
``instructions.json`` (LLaVA), ``prompts.json`` (PPO), ``image_to_caption.json``, ``mmhal_<split>.json`` and
``pope_<split>_<setting>.jsonl``. Every file appears whole or not at all.
"""

import dataclasses
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from vlm_jax.errors import InputError
from vlm_jax.files import read_json, write_bytes, write_json, write_json_lines
from vlm_jax.scenes.conversations import (
    checked_conversation,
    fact_conversation,
    image_conversation,
    question_turns,
    with_image,
)
from vlm_jax.scenes.draw import boxes, draw
from vlm_jax.scenes.language import captions
from vlm_jax.scenes.pope import pope_rows
from vlm_jax.scenes.questions import QUESTION_TYPES, Question, existence_questions, questions
from vlm_jax.scenes.world import (
    COLOURS,
    GRID,
    GROUNDS,
    KINDS,
    SIZES,
    SPLITS,
    STANDARD_DIALS,
    Dials,
    Scene,
    Thing,
    generator_for,
    present_kinds,
    scene,
)

Progress = Callable[[int, int], None]  # Called with (done, total).

# Shares of the conversations in which facts are read: without an image, and to check a description.
TEXT_ONLY_RATE = 0.1
CHECKED_RATE = 0.15
_CAPTION_TYPE = {None: 1, False: 6, True: 7}


def _silent(done: int, total: int) -> None:
    pass


def file_name(split: str, index: int) -> str:
    return f"{split}_{index:09d}.png"


def scenes_of(split: str, indices: Iterable[int], dials: Dials = STANDARD_DIALS, seed: int = 0) -> dict[str, Scene]:
    """Scenes keyed by file name."""
    return {file_name(split, index): scene(split, index, dials, seed) for index in indices}


def encode(image: np.ndarray) -> bytes:
    """A PNG."""
    stream = io.BytesIO()
    Image.fromarray(image).save(stream, "PNG", compress_level=1)
    return stream.getvalue()


def write_images(
    folder: str | Path,
    split: str,
    indices: Iterable[int],
    dials: Dials = STANDARD_DIALS,
    seed: int = 0,
    progress: Progress = _silent,
) -> dict[str, Scene]:
    """Draws scenes into ``folder/images`` and returns them by file name."""
    scenes = scenes_of(split, indices, dials, seed)
    for done, (name, here) in enumerate(scenes.items(), 1):
        write_bytes(Path(folder) / "images" / name, encode(draw(here)))
        progress(done, len(scenes))
    return scenes


def write_world(
    folder: str | Path,
    sizes: Mapping[str, int],
    dials: Dials = STANDARD_DIALS,
    seed: int = 0,
    progress: Progress = _silent,
) -> dict[str, Scene]:
    """Every file of the layout, with ``sizes[split]`` scenes a split; progress counts images."""
    folder, everything = Path(folder), {}
    total = sum(sizes.values())
    for split in (s for s in SPLITS if s in sizes):
        before = len(everything)
        scenes = write_images(
            folder,
            split,
            range(sizes[split]),
            dials,
            seed,
            lambda done, _, before=before: progress(before + done, total),
        )
        everything |= scenes
        if split == "train":
            write_json(folder / "instructions.json", instruction_rows(scenes))
        elif split == "prompts":
            write_json(folder / "prompts.json", prompt_rows(scenes))
        elif split in ("validation", "test"):
            write_json(folder / f"mmhal_{split}.json", mmhal_rows(scenes))
            rng = np.random.Generator(np.random.Philox(key=seed))
            for setting, rows in pope_rows(scenes, rng).items():
                write_json_lines(folder / f"pope_{split}_{setting}.jsonl", rows)
    write_json(folder / "image_to_caption.json", {name: list(captions(s)) for name, s in everything.items()})
    write_scenes(folder, everything)
    return everything


def instruction_rows(scenes: Mapping[str, Scene]) -> list[dict]:
    """LLaVA instruction data: one conversation a scene, some of them about written facts and without an image."""
    rows = []
    for name, here in scenes.items():
        rng = generator_for(here, "instructions")
        row = {"id": Path(name).stem}
        share = rng.random()
        if share < TEXT_ONLY_RATE:
            rows.append({**row, "conversations": fact_conversation(here, rng)})
            continue
        converse = checked_conversation if share < TEXT_ONLY_RATE + CHECKED_RATE else image_conversation
        rows.append({**row, "image": name, "conversations": converse(here, rng)})
    return rows


def prompt_rows(scenes: Mapping[str, Scene]) -> list[dict]:
    """PPO prompts: one question a scene. Only descriptions pay for their length."""
    rows = []
    for name, here in scenes.items():
        question = prompt_question(here)
        rows.append(
            {
                "id": Path(name).stem,
                "image": name,
                "conversations": question_turns(question),
                "captions": list(captions(here)),
                "caption_type": _CAPTION_TYPE[question.truth.get("present")],
                "length_bonus": 1.0 if question.type == "holistic" else 0.0,
            }
        )
    return rows


def prompt_question(here: Scene) -> Question:
    """The question that is asked about a scene of the preference and prompts splits: mostly for a description, since
    two samples of a short answer are mostly the same and compare nothing."""
    rng = generator_for(here, "prompt")
    kind = rng.random()
    if kind < 0.75:
        return next(q for q in questions(here, rng) if q.type == "holistic")
    if kind < 0.85:
        return existence_questions(here, rng)[int(rng.integers(2))]
    others = [q for q in questions(here, rng) if q.type != "holistic"]
    return others[int(rng.integers(len(others)))]


def preference_row(
    name: str, question: Question, answer_1: str, answer_2: str, preference: int, hallucination: bool
) -> dict:
    """One compared pair; ``preference`` is 1 or 2."""
    return {
        "id": Path(name).stem,
        "image": name,
        "conversations": with_image([{"from": "human", "value": question.text}]),
        "output_1": {"from": "gpt", "value": answer_1},
        "output_2": {"from": "gpt", "value": answer_2},
        "preference": preference,
        "hallucination": bool(hallucination),
    }


def mmhal_rows(scenes: Mapping[str, Scene]) -> list[dict]:
    """MMHal-Bench records: record i has type i % 8, and scenes that allow no such question are passed over.

    The extra key ``truth`` lets a rule judge answers without a judge model.
    """
    rows: list[dict] = []
    for name, here in scenes.items():
        kind = QUESTION_TYPES[len(rows) % len(QUESTION_TYPES)]
        asked = [q for q in questions(here, generator_for(here, "mmhal")) if q.type == kind]
        for question in asked:
            rows.append(
                {
                    "question_type": kind,
                    "question_topic": here.ground,
                    "image_id": Path(name).stem,
                    "image_src": name,
                    "image_content": present_kinds(here),
                    "question": question.text,
                    "gt_answer": question.answer,
                    "model_answer": "",
                    "truth": question.truth,
                }
            )
    return rows[: len(rows) - len(rows) % len(QUESTION_TYPES)]


def mmhal_question(row: Mapping) -> Question:
    """The question of a record."""
    return Question(row["question_type"], row["question"], row["gt_answer"], row["truth"])


def write_scenes(folder: str | Path, scenes: Mapping[str, Scene]) -> None:
    """Writes ``scenes.json``: every thing with its box (x0, y0, x1, y1 in pixels), the ground and the letter."""
    write_json(Path(folder) / "scenes.json", {name: _scene_record(here) for name, here in scenes.items()})


def read_scenes(folder: str | Path) -> dict[str, Scene]:
    """The scenes of ``scenes.json``, equal to those written.

    Raises:
        InputError: There is no such file, or an entry of it is no scene.
    """
    path, found = Path(folder) / "scenes.json", {}
    if not path.exists():
        raise InputError("no scenes.json", "a world of `vlm-jax scenes`", file=str(folder))
    for row, (name, record) in enumerate(read_json(path).items(), 1):
        try:
            found[name] = _scene_from(record)
        except (TypeError, KeyError, AttributeError, ValueError) as error:
            raise InputError(f"a scene {name!r} that is none ({error})", _WRITTEN, file=str(path), row=row) from None
        if not _is_drawable(found[name]):
            raise InputError(f"a scene {name!r} of unknown words", _WRITTEN, file=str(path), row=row)
    return found


_WRITTEN = "what `vlm-jax scenes` writes"


def _is_drawable(here: Scene) -> bool:
    things = all(
        thing.kind in KINDS and thing.colour in COLOURS and thing.size in SIZES and thing.cell in range(GRID**2)
        for thing in here.things
    )
    return things and here.split in SPLITS and here.ground in GROUNDS


def _scene_record(here: Scene) -> dict:
    record = dataclasses.asdict(here)
    for thing, box in zip(record["things"], boxes(here), strict=True):
        thing["box"] = box
    return record


def _scene_from(record: dict) -> Scene:
    things = tuple(
        Thing(**{**{k: v for k, v in thing.items() if k != "box"}, "offset": tuple(thing["offset"])})
        for thing in record["things"]
    )
    dials = Dials(**{**record["dials"], "faint_visibility": tuple(record["dials"]["faint_visibility"])})
    return Scene(**{**record, "things": things, "dials": dials})
