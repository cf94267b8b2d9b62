"""Rows with answers to be judged, one or several to a question.

Every layout of pairs that ``read_preferences`` takes, LLaVA-RLHF's also without "preference"; a conversation that ends
with an answer, as one learns from; and

    {"image": "1.jpg", "question": text, "answer": text}              or "answers": a list of texts, as
    {"image": "1.jpg", "prompt": text or messages, "answer": text}    `vlm-jax sample` writes it
"""

from pathlib import Path
from typing import NamedTuple

from vlm_jax.data.conversation import IMAGE
from vlm_jax.data.rows import Row, read_rows
from vlm_jax.data.sources import llava, trl
from vlm_jax.data.sources.captions import Captions, facts_of
from vlm_jax.data.sources.pictures import KEYS, Pictures, picture_name
from vlm_jax.data.sources.readers import columns_of, common_fields, is_pair, pair_layout
from vlm_jax.data.sources.records import Answered
from vlm_jax.data.sources.turns import Talk, conversation, talk_of

_SAID, _ASKED, _TALKS = {"answer", "answers"}, {"question", "prompt"}, {"conversations", "messages"}
_EXPECTED = (
    "the columns of a pair, or a conversation that ends with an answer, or one of question and prompt with one of "
    "answer and answers"
)


class _Found(NamedTuple):
    talk: Talk
    answers: tuple[str, ...]
    choice: int | None = None
    pictures: tuple[str, ...] = KEYS


def read_answered(
    path: str | Path, images_folder: str | Path, captions: Captions | None = None, *, allow_outside: bool = False
) -> list[Answered]:
    """Questions with their answers; a row's layout is recognised by its columns.

    Args:
        path: The file.
        images_folder: Folder that the image names are relative to.
        captions: From ``read_captions``; then every row with an image must have an entry.
        allow_outside: Whether a name may lead out of that folder.
    """
    pictures = Pictures(images_folder, allow_outside)
    records = []
    for row in read_rows(path):
        found = _found(row)
        name = picture_name(row, found.talk.pictures, found.pictures)
        record = Answered(
            **common_fields(row, pictures, found.talk, name),
            answers=found.answers,
            choice=found.choice,
            facts=facts_of(row, name, captions),
        )
        records.append(record)
    return records


def _found(row: Row) -> _Found:
    has = columns_of(row)
    said, asked, talks = (sorted(has & names) for names in (_SAID, _ASKED, _TALKS))
    if is_pair(row):
        if said:
            raise row.wrong(f"{said[0]!r} beside a pair of answers", "one of them")
        return _pair(row)
    if len(said) == len(asked) == 1 and not talks:
        return _Found(_question(row, *asked), _said(row, *said))
    if not talks or said or asked:
        raise row.wrong(f"the keys {sorted(has)}", _EXPECTED)
    talk = conversation(row)
    if talk.ends_with_a_question:
        raise row.wrong("a conversation that ends with a question", "an answer at the end")
    *before, last = talk.turns
    return _Found(Talk(before, talk.pictures), (last.text,))


def _pair(row: Row) -> _Found:
    layout = pair_layout(row)
    if layout.read is llava.pair and row.values.get("preference") is None:
        return _Found(*llava.outputs(row), None, tuple(layout.pictures))
    pair = layout.read(row)
    return _Found(pair.talk, pair.answers, pair.choice, tuple(layout.pictures))


def _question(row: Row, key: str) -> Talk:
    if key == "prompt":
        return trl.prompt(row)
    text = row.filled(row.require(key), "a question")
    return talk_of(row, [{"role": "user", "content": text}], key)


def _said(row: Row, key: str) -> tuple[str, ...]:
    """A model may have said nothing, which has a score as well."""
    value = row.require(key)
    texts = [value] if key == "answer" else value
    if not isinstance(texts, list) or not texts:
        raise row.wrong(f"{key} {value!r:.40}", f"{key} as a list of texts")
    for text in texts:
        if IMAGE in row.text(text, "an answer"):
            raise row.wrong(f"{IMAGE} in an answer", "it in a question")
    return tuple(texts)
