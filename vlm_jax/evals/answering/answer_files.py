"""Files of answers: one JSON object an answer, in lines or in a list, as LLaVA's ``model_vqa.py`` and the benchmarks'
own scripts write them,

    {"question_id": 1, "prompt": "Is there a dog in the image?", "text": "Yes"}      LLaVA
    {"image_id": 226988, "caption": "A woman at a table."}                            OPERA's captions
    {"id": 3, "response": "No"}                                                       AMBER
    {"question": "Is there a dog in the image?", "answer": "Yes"}                     POPE, in the questions' order

an object of such objects, as CHAIR's script reads them, {"imgToEval": {"226988": {"image_id": 226988, ...}}}, and what
lmms-eval (``lmms_eval_logs.py``) and VLMEvalKit (``vlmevalkit_tables.py``) leave.

A row may have several ids. Each benchmark goes by one of them, and where another one names another question it is not
for us to say which is meant.
"""

import functools
import itertools
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vlm_jax.data.rows import Origin, Row, iter_rows
from vlm_jax.data.tables import is_table, iter_table
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.lmms_eval_logs import is_old_log, is_sample, old_log, plain_sample
from vlm_jax.evals.answering.vlmevalkit_tables import is_prediction, plain_prediction
from vlm_jax.files import read_json, read_lines

_IDS = ("question_id", "image_id", "id", "index")
# Where a row has the model's and the right one, "answer" is the right one.
_TEXTS = ("text", "caption", "response", "model_answer", "model_prediction", "prediction", "answer")
_QUESTIONS = ("prompt", "question")
_BY_IMAGE = "imgToEval"
_BY_IMAGE_FILE = re.compile(r'\s*\{\s*"(overall|imgToEval)"')
_FIRST_LINES = 3  # Of a file that may be laid out over many.
_NAMED = 5  # Ids that a complaint lists.
_SHORT = 64


class Answer(NamedTuple):
    """``text`` as it stands, ``question`` where the file repeats it, in which ``row`` and under which ``key``."""

    text: str
    question: str | None
    row: int
    key: str


class Pairing(NamedTuple):
    """How answers find their questions.

    Attributes:
        keys: The keys of ids that the benchmark goes by, the first that a row has counts; those that others go by come
            behind them.
        known: Ids of all questions.
        chosen: The only key that counts, where somebody said so.
    """

    keys: tuple[str, ...] = ()
    known: Collection[str] = ()
    chosen: str | None = None

    @property
    def ordered(self) -> tuple[str, ...]:
        return (self.chosen,) if self.chosen else (*self.keys, *(key for key in _IDS if key not in self.keys))


BY_ANY_ID = Pairing()


def iter_answer_rows(path: Path, pairing: Pairing = BY_ANY_ID) -> Iterator[Row]:
    """The rows of a file of answers in any of the layouts, each as LLaVA would have written it.

    Raises:
        InputError: The file cannot be read, or a row of lmms-eval's holds no text.
    """
    if is_table(path):
        rows = iter_table(path)
    elif is_old_log(path):
        rows = old_log(path)
    elif _BY_IMAGE_FILE.match("".join(itertools.islice(read_lines(path), _FIRST_LINES))):
        rows = _by_image(path)
    else:
        rows = iter_rows(path)
    for row in rows:
        if is_sample(row):
            yield plain_sample(row, _IDS, (pairing.chosen,) if pairing.chosen else pairing.keys)
        else:
            yield plain_prediction(row) if is_prediction(row) else row


def read_answers(path: Path, pairing: Pairing = BY_ANY_ID, *, ids: Sequence[str] | None = None) -> dict[str, Answer]:
    """:func:`collect_answers` of a file.

    Args:
        path: Of the file.
        pairing: How answers find their questions.
        ids: Of all questions, in whose order stand rows that have no id and repeat their question instead; None where
            such rows are not taken.
    """
    rows = iter_answer_rows(path, pairing)
    first = next(rows)
    rows = itertools.chain([first], rows)
    if ids is not None and pairing.chosen is None and _keys(tuple(first.values), _IDS).identity is None:
        return _in_order(rows, ids)
    return collect_answers(rows, pairing)


def _by_image(path: Path) -> Iterator[Row]:
    entries = read_json(path, unique=True).get(_BY_IMAGE)
    if not isinstance(entries, dict):
        raise InputError(f"{_BY_IMAGE} of type {type(entries).__name__}", "image id -> answer", file=str(path))
    if not entries:
        raise InputError(f"no rows in {_BY_IMAGE}", "image id -> answer", file=str(path))
    for number, (image, values) in enumerate(entries.items(), 1):
        row = Row(Origin(str(path), number), values)
        if not isinstance(values, dict):
            raise row.wrong(
                f"{_BY_IMAGE} of {image} of type {type(values).__name__}", "an object with image_id and caption"
            )
        yield row


def _in_order(rows: Iterable[Row], ids: Sequence[str]) -> dict[str, Answer]:
    found: dict[str, Answer] = {}
    for place, row in enumerate(rows):
        keys = _keys(tuple(row.values), _IDS)
        if keys.identity is not None:
            raise row.wrong(f"an id ({keys.identity}) behind rows without one", "ids in all rows or in none")
        if place == len(ids):
            raise row.wrong("one answer more than there are questions", f"{len(ids)} answers, in their order")
        answer = _answer(row, keys)
        if answer.question is None:
            raise _without(row, _QUESTIONS, "an id, or the question")
        found[ids[place]] = answer
    return found


class _Keys(NamedTuple):
    """Under which keys a row has what; ``others`` hold ids as well, ``rivals`` other models' answers, or nobody knows
    whose."""

    identity: str | None
    others: tuple[str, ...]
    text: str | None
    rivals: tuple[str, ...]
    questions: tuple[str, ...]


# Rows of one file have the same keys, a million times.
@functools.lru_cache(maxsize=64)
def _keys(present: tuple[str, ...], ids: tuple[str, ...]) -> _Keys:
    texts = [name for name in _TEXTS if name in present]
    return _Keys(
        identity=next((name for name in ids if name in present), None),
        others=tuple(name for name in ids if name in present)[1:],
        text=texts[0] if texts else None,
        rivals=tuple(name for name in texts[1:] if name != _TEXTS[-1]),
        questions=tuple(name for name in _QUESTIONS if name in present),
    )


def answer_in(row: Row) -> Answer:
    """The answer that a row holds, whatever its id.

    Raises:
        InputError: It holds none.
    """
    return _answer(row, _keys(tuple(row.values), _IDS))


def _answer(row: Row, keys: _Keys) -> Answer:
    _, _, key, rivals, questions = keys
    if key is None:
        raise _without(row, _TEXTS, "an answer")
    if rivals:
        raise row.wrong(f"{key} and {', '.join(rivals)}", "one of them: which is the model's answer?")
    question = next((row.values[name] for name in questions if isinstance(row.values[name], str)), None)
    # Interned where they are short: a million answers to yes/no questions are a few.
    text = row.text(row.values[key], key)
    return Answer(sys.intern(text) if len(text) < _SHORT else text, question, row.origin.row, key)


def row_id(row: Row, key: str) -> str:
    """An id that may be written as a number or as text.

    Raises:
        InputError: There is none, or it is neither.
    """
    value = row.require(key)
    if type(value) is int:
        return str(value)
    return row.text(value, key)


def paired_id(row: Row, pairing: Pairing, identify: Callable[[Row, str], str] = row_id) -> str:
    """The id by which an answer finds its question.

    Args:
        row: Of an answer.
        pairing: How answers find their questions.
        identify: The id of a row that has one under this key.

    Raises:
        InputError: The row has none, or another one of its ids names another question.
    """
    return _paired(row, _keys(tuple(row.values), pairing.ordered), pairing, identify)


def _paired(row: Row, keys: _Keys, pairing: Pairing, identify: Callable[[Row, str], str]) -> str:
    if keys.identity is None:
        raise _without(row, pairing.ordered, "an id")
    found = identify(row, keys.identity)
    for key in keys.others:
        value = row.values[key]
        # Of what is no id at all nothing can be meant.
        other = identify(row, key) if type(value) in (int, str) else found
        # A name that the benchmark makes an id of is one, of whatever is asked about.
        asked = other in pairing.known
        if other != found and (asked or other != str(value)):
            said = f"{keys.identity} {found} and {key} {other}" + (", which is a question's too" if asked else "")
            raise row.wrong(said, f"ids that agree, or --id-key {keys.identity} or --id-key {key}")
    return found


def collect_answers(
    rows: Iterable[Row], pairing: Pairing = BY_ANY_ID, identify: Callable[[Row, str], str] = row_id
) -> dict[str, Answer]:
    """Answers by id, ids as text.

    Args:
        rows: Of one file.
        pairing: How answers find their questions.
        identify: The id of a row whose id stands under a key.

    Raises:
        InputError: Malformed JSON, a row without id or text, an id that comes twice, ids that disagree.
    """
    found: dict[str, Answer] = {}
    ids = pairing.ordered
    for row in rows:
        keys = _keys(tuple(row.values), ids)
        identity = _paired(row, keys, pairing, identify)
        if identity in found:
            first = found[identity].row
            raise row.wrong(f"{keys.identity} {identity} for the second time (first in row {first})", "one each")
        found[identity] = _answer(row, keys)
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
    # A model may echo one; a file of questions has them all.
    if questions and all(answers[identity].text == text for identity, text in questions.items()):
        raise InputError(f"the questions themselves (id {ids[0]} for one)", "answers", file=str(file))
    for identity, text in (questions or {}).items():
        _, asked, row, _ = answers[identity]
        if asked is not None and text not in asked:
            found = f"id {identity} as an answer to {asked[:80]!r}"
            raise InputError(found, f"an answer to {text!r}", file=str(file), row=row)
    return [answers[identity].text for identity in ids]


def _without(row: Row, names: Iterable[str], what: str) -> InputError:
    return row.wrong(f"the keys {sorted(row.values)}", f"{what} under one of {', '.join(names)}")


def _list(ids: Sequence[str]) -> str:
    rest = f" and {len(ids) - _NAMED} more" if len(ids) > _NAMED else ""
    return f"{', '.join(ids[:_NAMED])}{rest}"
