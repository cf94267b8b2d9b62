"""Files of rows as lists of records; a row's layout is recognised by its columns."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.rows import Row, read_rows
from vlm_jax.data.sources import llama_factory, llava, rlhf_v, trl
from vlm_jax.data.sources.captions import Captions, facts_of
from vlm_jax.data.sources.pairs import Pair
from vlm_jax.data.sources.pictures import KEYS, Pictures, picture_name
from vlm_jax.data.sources.records import Instruction, Preference, Prompt
from vlm_jax.data.sources.turns import Talk, conversation

# Caption types of prompts whose truth is one of the options A to D; their facts are A-OKVQA rationales.
_MULTIPLE_CHOICE = range(2, 6)


class _Layout(NamedTuple):
    """Of a row with two answers.

    Attributes:
        columns: As messages name them.
        fits: Told which columns a row has something in.
        read: The row's pair.
        pictures: Columns that may name its picture.
    """

    columns: str
    fits: Callable[[frozenset[str]], bool]
    read: Callable[[Row], Pair]
    pictures: Sequence[str] = KEYS


_ANSWERS = {"chosen", "rejected"}
_TALKS = {"conversations", "messages"}
_LAYOUTS = (
    _Layout("conversations, output_1, output_2, preference", lambda has: "output_1" in has, llava.pair),
    _Layout(
        "conversations or messages, chosen, rejected", lambda has: has & _TALKS and has & _ANSWERS, llama_factory.pair
    ),
    _Layout("prompt, chosen, rejected", lambda has: "prompt" in has and has & _ANSWERS, trl.pair),
    _Layout(
        "chosen, rejected (whole conversations)",
        lambda has: has & _ANSWERS and not has & (_TALKS | {"prompt", "question"}),
        trl.pair,
    ),
    _Layout(
        "question, chosen, rejected",
        lambda has: "question" in has and has & _ANSWERS,
        rlhf_v.rlaif_v_pair,
        rlhf_v.KEYS,
    ),
    _Layout(
        "text (JSON of question, chosen, rejected)",
        lambda has: "text" in has and not has & (_TALKS | _ANSWERS | {"prompt", "question"}),
        rlhf_v.rlhf_v_pair,
        rlhf_v.KEYS,
    ),
)


def read_instructions(path: str | Path, images_folder: str | Path, *, allow_outside: bool = False) -> list[Instruction]:
    """Conversations to learn from, under "conversations" (LLaVA, ShareGPT) or "messages" (chat messages).

    Args:
        path: The file.
        images_folder: Folder that the image names are relative to.
        allow_outside: Whether a name may lead out of that folder.
    """
    pictures = Pictures(images_folder, allow_outside)
    records = []
    for row in read_rows(path):
        talk = conversation(row)
        if talk.ends_with_a_question:
            raise row.wrong("conversations that end with a question", "an answer at the end")
        records.append(Instruction(**common_fields(row, pictures, talk, picture_name(row, talk.pictures))))
    return records


def read_preferences(
    path: str | Path, images_folder: str | Path, captions: Captions | None = None, *, allow_outside: bool = False
) -> list[Preference]:
    """Pairs of answers in the layouts of LLaVA-RLHF, LLaMA-Factory, TRL, RLHF-V and RLAIF-V.

    Args:
        path: The file.
        images_folder: Folder that the image names are relative to.
        captions: From ``read_captions``; then every row with an image must have an entry.
        allow_outside: Whether a name may lead out of that folder.
    """
    pictures = Pictures(images_folder, allow_outside)
    records = []
    for row in read_rows(path):
        layout = pair_layout(row)
        pair = layout.read(row)
        name = picture_name(row, pair.talk.pictures, layout.pictures)
        record = Preference(
            **common_fields(row, pictures, pair.talk, name),
            answers=pair.answers,
            choice=pair.choice,
            hallucination=pair.hallucination,
            facts=facts_of(row, name, captions),
        )
        records.append(record)
    return records


def columns_of(row: Row) -> frozenset[str]:
    """Columns that a row has something in."""
    return frozenset(name for name, value in row.values.items() if value is not None)


def is_pair(row: Row) -> bool:
    """Whether a row has the columns of two answers, in whichever layout."""
    has = columns_of(row)
    return any(layout.fits(has) for layout in _LAYOUTS)


def pair_layout(row: Row) -> _Layout:
    """The one layout of pairs that a row is in.

    Raises:
        InputError: It is in none, or in two.
    """
    has = columns_of(row)
    fitting = [layout for layout in _LAYOUTS if layout.fits(has)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        both = " as well as those of ".join(layout.columns for layout in fitting)
        raise row.wrong(f"the columns of {both}", "those of one layout (take the others away)")
    raise row.wrong(f"the keys {sorted(has)}", "one of: " + "; ".join(layout.columns for layout in _LAYOUTS))


def read_prompts(
    path: str | Path, images_folder: str | Path, captions: Captions | None = None, *, allow_outside: bool = False
) -> list[Prompt]:
    """Prompts: the first question of "conversations" or "messages", or all of a "prompt" (TRL); "caption_type" (default
    1), "length_bonus" (default 1.0).

    Arguments as in ``read_preferences``. A row's own "captions" are not read, as in LLaVA-RLHF's released code.
    """
    pictures = Pictures(images_folder, allow_outside)
    records = []
    for row in read_rows(path):
        talk = _to_answer(row)
        name = picture_name(row, talk.pictures)
        caption_type = row.integer("caption_type", range(1, 8), default=1)
        record = Prompt(
            **common_fields(row, pictures, talk, name),
            caption_type=caption_type,
            length_bonus=row.number("length_bonus", 1.0),
            facts=facts_of(row, name, captions, "aok_" if caption_type in _MULTIPLE_CHOICE else ""),
        )
        records.append(record)
    return records


def _to_answer(row: Row) -> Talk:
    talks = _TALKS & columns_of(row)
    if row.values.get("prompt") is not None:
        if talks:
            raise row.wrong(f"'prompt' beside {talks.pop()!r}", "one of them")
        return trl.prompt(row)
    return conversation(row, only_first=True)


def common_fields(row: Row, pictures: Pictures, talk: Talk, name: str | None) -> Mapping[str, Any]:
    """The fields of ``Record``; checks that the marker and the image go together, and supplies a marker that is
    missing."""
    image = None if name is None else pictures.find(row, name)
    turns = talk.turns
    markers = sum(turn.text.count(IMAGE) for turn in turns)
    if markers > 1 or (markers and image is None):
        raise row.wrong(f"{markers} {IMAGE} markers and {'no' if image is None else 'one'} image", "one of each")
    if image is not None and not markers:
        first = next(place for place, turn in enumerate(turns) if turn.role == "human")
        turns = [*turns[:first], Turn("human", f"{IMAGE}\n{turns[first].text}"), *turns[first + 1 :]]
    return {
        "id": str(row.values.get("id", row.origin.row)),
        "image": image,
        "turns": tuple(turns),
        "origin": row.origin,
    }
