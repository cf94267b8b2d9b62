"""The files of LLaVA and LLaVA-RLHF as lists of records; every row is checked when it is loaded.

All readers take a JSON list or JSON lines, and raise ``InputError`` naming the file and the row. ``<image>``
may stand anywhere in a question (it is moved when the conversation is rendered) and is supplied where a row
names an image but no question shows it; a marker without an image, or more than one, is an error.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.images import Source
from vlm_jax.data.rows import Origin, Row, read_rows
from vlm_jax.files import read_json

Captions = Mapping[str, Sequence[str]]

# Caption types of prompts whose truth is one of the options A to D; their facts are A-OKVQA rationales.
MULTIPLE_CHOICE = range(2, 6)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What every row has.

    Attributes:
        id: The row's own id, or its number.
        image: Path (or, for records made in memory, encoded bytes or what opens a picture); None for a row without an
            image.
        turns: The conversation, human first, roles alternating.
        origin: Where the row stands; None for records made in memory.
    """

    id: str
    image: Source | None
    turns: tuple[Turn, ...]
    origin: Origin | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Instruction(Record):
    """A conversation to learn from; ends with an answer."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Preference(Record):
    """A conversation that ends with a question, two answers to it, and the one that was preferred.

    Attributes:
        answers: output_1 and output_2.
        choice: 0 or 1, the index of the better answer.
        hallucination: The annotators' flag where the row has one.
        facts: Captions of the image; None where the reader was given none.
    """

    answers: tuple[str, str]
    choice: int
    hallucination: bool | None = None
    facts: tuple[str, ...] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Prompt(Record):
    """One question to answer; ``turns`` ends with it.

    Attributes:
        caption_type: 1 open question, 2 to 5 the truth is option A to D, 6 the truth is no, 7 the truth is
            yes.
        length_bonus: Factor of the length reward.
        facts: Captions of the image (rationales for types 2 to 5); None where the reader was given none.
    """

    caption_type: int = 1
    length_bonus: float = 1.0
    facts: tuple[str, ...] | None = None


def read_instructions(path: str | Path, images_folder: str | Path) -> list[Instruction]:
    """LLaVA instruction data: ``{"id", "image" (optional), "conversations": [{"from", "value"}, ...]}``."""
    images = _Images(images_folder)
    records = []
    for row in read_rows(path):
        turns = _turns(row, row.require("conversations"))
        if turns[-1].role != "gpt":
            raise row.wrong("conversations that end with a question", "an answer at the end")
        records.append(Instruction(**_common(row, images, turns)))
    return records


def read_preferences(path: str | Path, images_folder: str | Path, captions: Captions | None = None) -> list[Preference]:
    """LLaVA-RLHF comparisons: a conversation, "output_1", "output_2", "preference" (1 or 2), "hallucination".

    The last answer of the conversation is the one both outputs replace; a file may leave it out.

    Args:
        path: The JSON file.
        images_folder: Folder that the image names are relative to.
        captions: From ``read_captions``; then every row with an image must have an entry.
    """
    images = _Images(images_folder)
    records = []
    for row in read_rows(path):
        turns = _turns(row, row.require("conversations"))
        turns = turns[:-1] if turns[-1].role == "gpt" else turns
        record = Preference(
            **_common(row, images, turns),
            answers=(_output(row, "output_1"), _output(row, "output_2")),
            choice=row.integer("preference", range(1, 3)) - 1,
            hallucination=_hallucination(row),
            facts=_facts(row, captions),
        )
        records.append(record)
    return records


def read_prompts(path: str | Path, images_folder: str | Path, captions: Captions | None = None) -> list[Prompt]:
    """LLaVA-RLHF prompts: first question, "caption_type" (default 1), "length_bonus" (default 1.0).

    Arguments as in ``read_preferences``. A row's own "captions" are not read, as in the released code.
    """
    images = _Images(images_folder)
    records = []
    for row in read_rows(path):
        turns = _turns(row, row.require("conversations"), only_first=True)
        caption_type = row.integer("caption_type", range(1, 8), default=1)
        record = Prompt(
            **_common(row, images, turns),
            caption_type=caption_type,
            length_bonus=row.number("length_bonus", 1.0),
            facts=_facts(row, captions, "aok_" if caption_type in MULTIPLE_CHOICE else ""),
        )
        records.append(record)
    return records


def read_captions(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Image name -> captions (``image_to_caption.json``; A-OKVQA rationales under "aok_" + name)."""
    captions = {}
    for number, (name, values) in enumerate(read_json(path).items(), 1):
        row = Row(Origin(str(path), number), {})
        if not isinstance(values, list) or not values:
            raise row.wrong(f"{values!r:.40} for {name!r}", "a list of captions")
        captions[name] = tuple(_filled(row, value, f"a caption of {name!r}") for value in values)
    return captions


class _Images:
    """Resolves names in a folder; asks the file system once per name."""

    def __init__(self, folder: str | Path):
        self.folder, self.known = Path(folder), dict[str, Path]()

    def find(self, row: Row) -> Path | None:
        name = row.values.get("image")
        if name is None:
            return None
        name = _filled(row, name, "an image name")
        if name not in self.known:
            path = self.folder / name
            if not path.is_file():
                raise row.wrong(f"no image file {path}", "an existing file")
            self.known[name] = path
        return self.known[name]


def _common(row: Row, images: _Images, turns: list[Turn]) -> dict[str, Any]:
    """The fields of ``Record``; checks that the marker and the image go together."""
    image = images.find(row)
    markers = sum(turn.text.count(IMAGE) for turn in turns)
    if markers > 1 or (markers and image is None):
        raise row.wrong(f"{markers} {IMAGE} markers and {'no' if image is None else 'one'} image", "one of each")
    if image is not None and not markers:
        turns = [Turn("human", f"{IMAGE}\n{turns[0].text}"), *turns[1:]]
    return {
        "id": str(row.values.get("id", row.origin.row)),
        "image": image,
        "turns": tuple(turns),
        "origin": row.origin,
    }


def _filled(row: Row, value: Any, what: str) -> str:
    if not row.text(value, what).strip():
        raise row.wrong(f"{what} without text", f"{what} with text")
    return value


def _answer(row: Row, value: Any, what: str) -> str:
    if not isinstance(value, str) or not value.strip():
        raise row.wrong(f"{what} without text ({value!r:.40})", "a written answer")
    if IMAGE in row.text(value, what):
        raise row.wrong(f"{IMAGE} in {what}", "it in a question")
    return value


def _output(row: Row, key: str) -> str:
    output = row.require(key)
    if not isinstance(output, dict) or "value" not in output:
        raise row.wrong(f"{key} {output!r:.40}", f'{key} as {{"from": "gpt", "value": text}}')
    return _answer(row, output["value"], f"an answer {key}")


def _hallucination(row: Row) -> bool | None:
    value = row.values.get("hallucination")
    if value is not None and not isinstance(value, bool):
        raise row.wrong(f"hallucination {value!r:.40}", "true or false")
    return value


def _turns(row: Row, conversations: Any, only_first: bool = False) -> list[Turn]:
    """Turns from the first human one on (as LLaVA), roles checked; all, or the first alone."""
    if not isinstance(conversations, list):
        raise row.wrong(f"conversations of type {type(conversations).__name__}", "a list of turns")
    turns = [_role_and_value(row, turn) for turn in conversations]
    if turns and turns[0][0] == "gpt":
        turns = turns[1:]
    if not turns:
        raise row.wrong("conversations without a human turn", "at least one")
    turns = turns[:1] if only_first else turns
    for number, (role, _) in enumerate(turns):
        if role != ("human", "gpt")[number % 2]:
            raise row.wrong(f"two {role!r} turns in a row", "roles 'human' and 'gpt' alternating")
    return [_turn(row, *turn) for turn in turns]


def _role_and_value(row: Row, turn: Any) -> tuple[str, Any]:
    if not isinstance(turn, dict) or not {"from", "value"} <= turn.keys():
        raise row.wrong(f"a turn {turn!r:.60}", 'a turn {"from": ..., "value": ...}')
    if turn["from"] not in ("human", "gpt"):
        raise row.wrong(f"a turn from {turn['from']!r:.40}", "'human' or 'gpt'")
    return turn["from"], turn["value"]


def _turn(row: Row, role: str, value: Any) -> Turn:
    if role == "gpt":
        return Turn("gpt", _answer(row, value, "an answer"))
    return Turn("human", _filled(row, value, "a question"))


def _facts(row: Row, captions: Captions | None, prefix: str = "") -> tuple[str, ...] | None:
    name = row.values.get("image")
    if captions is None or name is None:
        return None
    for key in (prefix + name, prefix + Path(name).name):
        if key in captions:
            return tuple(captions[key])
    raise row.wrong(f"no captions for {prefix + name!r}", "an entry in the captions file")
