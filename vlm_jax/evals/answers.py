"""Files of answers, as LLaVA's ``model_vqa.py`` and the benchmarks' own scripts write them: one JSON object an answer,
in lines or in a list.

    {"question_id": 1, "prompt": "Is there a dog in the image?", "text": "Yes"}      LLaVA
    {"image_id": 226988, "caption": "A woman at a table."}                            OPERA's captions
    {"id": 3, "response": "No"}                                                       AMBER
"""

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vlm_jax.data.rows import Row, iter_rows
from vlm_jax.errors import InputError

_IDS = ("question_id", "image_id", "id", "index")
# Where a row has the model's and the right one, "answer" is the right one.
_TEXTS = ("text", "caption", "response", "model_answer", "model_prediction", "prediction", "answer")
_QUESTIONS = ("prompt", "question")
_NAMED = 5  # Ids that a complaint lists.
_SHORT = 64


class Answer(NamedTuple):
    """``text`` as it stands, ``question`` where the file repeats it, and the ``row`` it stands in."""

    text: str
    question: str | None
    row: int


def read_answers(path: Path) -> dict[str, Answer]:
    """:func:`collect_answers` of a file."""
    return collect_answers(iter_rows(path))


def answer_in(row: Row) -> Answer:
    """The answer that a row holds, whatever its id.

    Raises:
        InputError: It holds none.
    """
    key = _key(row, _TEXTS, "an answer")
    if several := [name for name in _TEXTS[:-1] if name in row.values and name != key]:
        raise row.wrong(f"{key} and {', '.join(several)}", "one of them: which is the model's answer?")
    question = next((row.values[name] for name in _QUESTIONS if isinstance(row.values.get(name), str)), None)
    # Interned where they are short: a million answers to yes/no questions are a few.
    text = row.text(row.values[key], key)
    return Answer(sys.intern(text) if len(text) < _SHORT else text, question, row.origin.row)


def row_id(row: Row, key: str) -> str:
    """An id that may be written as a number or as text.

    Raises:
        InputError: There is none, or it is neither.
    """
    value = row.require(key)
    if type(value) is int:
        return str(value)
    return row.text(value, key)


def collect_answers(rows: Iterable[Row], identify: Callable[[Row, str], str] = row_id) -> dict[str, Answer]:
    """Answers by id, ids as text.

    Args:
        rows: Of one file.
        identify: The id of a row whose id stands under a key.

    Raises:
        InputError: Malformed JSON, a row without id or text, an id that comes twice.
    """
    found: dict[str, Answer] = {}
    for row in rows:
        id_key = _key(row, _IDS, "an id")
        identity = identify(row, id_key)
        if identity in found:
            raise row.wrong(f"{id_key} {identity} for the second time (first in row {found[identity].row})", "one each")
        found[identity] = answer_in(row)
    return found


def answers_to(
    ids: Sequence[str], answers: Mapping[str, Answer], file: Path, questions: Mapping[str, str] | None = None
) -> list[str]:
    """The answers in the order of the questions.

    Args:
        ids: Of all questions.
        answers: From :func:`read_answers`.
        file: Where those came from.
        questions: Texts that have to stand in the answers' own questions, where these repeat them: other files of the
            same benchmark have the same ids.

    Raises:
        InputError: A question has no answer, an answer no question, or an answer is to another question.
    """
    if lost := [identity for identity in ids if identity not in answers]:
        raise InputError(
            f"no answer to {_list(lost)}", f"an answer to each of the {len(ids)} questions", file=str(file)
        )
    if len(answers) > len(ids):
        known = set(ids)
        surplus = [identity for identity in answers if identity not in known]
        raise InputError(f"answers to {_list(surplus)}", f"ids among the {len(ids)} of the questions", file=str(file))
    for identity, text in (questions or {}).items():
        if answers[identity].text == text:
            raise InputError(f"id {identity} with its own question", "an answer", file=str(file))
        asked = answers[identity].question
        if asked is not None and text not in asked:
            found = f"id {identity} as an answer to {asked[:80]!r}"
            raise InputError(found, f"an answer to {text!r}", file=str(file), row=answers[identity].row)
    return [answers[identity].text for identity in ids]


def _key(row: Row, names: Iterable[str], what: str) -> str:
    for name in names:
        if name in row.values:
            return name
    raise row.wrong(f"the keys {sorted(row.values)}", f"{what} under one of {', '.join(names)}")


def _list(ids: Sequence[str]) -> str:
    rest = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{', '.join(ids[:_NAMED])}{rest}"
