"""MMBench's files: its table of questions and images, answers to it, and what its server takes.

The table (TSV) has a row a question: ``index``, ``question``, ``hint``, the options under ``A``, ``B``, ..., ``answer``
(a letter; hidden in test splits), ``category``, ``l2-category``, ``split`` and ``image`` (base64, or the index of the
row that has the image). Older tables repeat each question with its options rotated, under index + 1000000 a round.
"""

import base64
import binascii
import csv
import hashlib
import io
import string
from collections.abc import Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

from vlm_jax.data.rows import Row, iter_rows
from vlm_jax.data.tables import delimiter, is_missing, iter_table
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import answers_to, collect_answers, row_id
from vlm_jax.files import write_bytes

ROUND = 1_000_000
_LONGEST_REFERENCE = 64  # Characters; no image is that small.


class Question(NamedTuple):
    """A question as it is asked, once: a circular evaluation asks it again with its options rotated, under
    ``index`` + ROUND a round.

    ``answer`` is a letter, None where it is hidden; ``image`` the index of the first row with the same image, None
    where there is none; ``category``, ``l2_category`` and ``split`` are empty where the table does not say.
    """

    index: int
    text: str
    hint: str
    options: tuple[str, ...]
    answer: str | None
    category: str
    l2_category: str
    split: str
    image: int | None

    @property
    def main(self) -> int:
        """Index of the question before any rotation."""
        return self.index % ROUND

    @property
    def lettered(self) -> dict[str, str]:
        """Letter -> option."""
        return dict(zip(string.ascii_uppercase, self.options, strict=False))


def read_questions(path: Path) -> list[Question]:
    """All rows of MMBench's table, in the order of their indices; images stay in the file.

    Raises:
        InputError: The file is no such table, an index is no number or comes twice, a question has no options, an
            answer is none of its letters, the row of an image is not there, a rotated question stands without its
            first form, or some answers are hidden and others not.
    """
    found: dict[int, Question] = {}
    first: dict[bytes, int] = {}  # Hash of an image -> its first row.
    references: dict[int, Row] = {}
    for row in _rows(path):
        index, cell, image = _index(row), _cell(row, "image"), None
        if index in found:
            raise row.wrong(f"index {index} for the second time", "indices that differ")
        if len(cell) > _LONGEST_REFERENCE:
            image = first.setdefault(hashlib.sha256(cell.encode()).digest(), index)
        elif cell:
            references[index] = row
        found[index] = _question(row, index, image)
    for index, row in references.items():
        found[index] = found[index]._replace(image=_referred(row, found))
    _check(path, found)
    return [found[index] for index in sorted(found)]


def _rows(path: Path) -> Iterator[Row]:
    """Columns in lower case except the options', as the scorers have them."""
    for row in iter_table(path):
        yield Row(row.origin, {name if len(name) == 1 else name.lower(): cell for name, cell in row.values.items()})


def _cell(row: Row, name: str) -> str:
    cell = row.values.get(name, "")
    return "" if is_missing(cell) else cell


_DIGITS = 18


def _index(row: Row) -> int:
    return _number(row, row.require("index"), "index")


def _number(row: Row, written: str, what: str) -> int:
    if not (written.isascii() and written.isdecimal() and len(written) <= _DIGITS):
        raise row.wrong(f"{what} {written[:60]!r}", f"{what} as a number")
    return int(written)


def _question(row: Row, index: int, image: int | None) -> Question:
    options = []
    for letter in string.ascii_uppercase:
        if not (option := _cell(row, letter)):
            break
        options.append(option)
    letters = string.ascii_uppercase[: len(options)]
    if not letters:
        raise row.wrong("no option A", "options under A, B, ...")
    answer = _cell(row, "answer") or None
    if answer is not None and (len(answer) > 1 or answer not in letters):
        raise row.wrong(f"answer {answer[:60]!r}", f"one of {', '.join(letters)}")
    kinds = (_cell(row, name) for name in ("category", "l2-category", "split"))
    return Question(index, row.require("question"), _cell(row, "hint"), tuple(options), answer, *kinds, image)


def _referred(row: Row, found: Mapping[int, Question]) -> int:
    cell = row.values["image"]
    image = found[number].image if cell.isdecimal() and (number := int(cell)) in found else None
    if image is None:
        raise row.wrong(f"image {cell!r}", "base64, or the index of a row that has it")
    return image


def _check(path: Path, found: Mapping[int, Question]) -> None:
    for index, question in found.items():
        if question.main not in found:
            raise InputError(f"index {index}, a rotated question", f"an index {question.main} too", file=str(path))
    hidden = sum(question.answer is None for question in found.values())
    if 0 < hidden < len(found):
        expected = "answers to all of them, or to none as in a test split"
        raise InputError(f"{hidden} of {len(found)} questions without an answer", expected, file=str(path))


def passes(questions: Sequence[Question], circular: bool) -> list[Question]:
    """What is asked, in the order of the indices: every question once, or as often as it has options, which move up
    by one a round. A table that has its rotated questions already is taken as it stands.

    Args:
        questions: From :func:`read_questions`.
        circular: Whether questions are asked more than once.
    """
    once = [question for question in questions if question.index < ROUND]
    if not circular:
        return once
    if len(once) < len(questions):
        return list(questions)
    rounds = [_rotated(question, turn) for question in once for turn in range(len(question.options))]
    return sorted(rounds, key=lambda question: question.index)


def _rotated(question: Question, turn: int) -> Question:
    options, letters = question.options, string.ascii_uppercase
    answer = question.answer and letters[(letters.index(question.answer) - turn) % len(options)]
    return question._replace(
        index=question.index + turn * ROUND, options=options[turn:] + options[:turn], answer=answer
    )


def prompt(question: Question) -> str:
    """Hint, question and options, as LLaVA asks."""
    options = [f"{letter}. {option}" for letter, option in question.lettered.items()]
    return "\n".join([*([question.hint] if question.hint else []), question.text, *options])


def write_images(path: Path, folder: Path, images: Set[int]) -> None:
    """Write ``INDEX.jpg`` for the images of these rows of the table; the bytes as they are, so that some may be PNG.

    Raises:
        InputError: An image is no base64.
    """
    for row in _rows(path):
        if (index := _index(row)) in images:
            try:
                content = base64.b64decode("".join(row.values["image"].split()), validate=True)
            except (binascii.Error, ValueError) as error:
                raise row.wrong(f"an image that cannot be decoded ({error})", "base64") from None
            write_bytes(folder / f"{index}.jpg", content)


def read_answers(path: Path, asked: Sequence[Question]) -> list[str]:
    """The answers in the order of what was asked.

    Args:
        path: LLaVA's JSON lines, where each round of ``--all-rounds`` is a ``round_id``; JSON or a table (.tsv, .csv)
            with ``index`` and ``prediction``, as VLMEvalKit writes it.
        asked: From :func:`passes`. Where nothing was asked twice, answers to later rounds are left out.

    Raises:
        InputError: A question has no answer, an answer no question, or an id comes twice.
    """
    rows = iter_table(path) if path.suffix.lower() in (".tsv", ".csv") else iter_rows(path)
    answers = collect_answers(rows, _round)
    rounds = any(question.index >= ROUND for question in asked)
    later = [identity for identity in answers if int(identity) >= ROUND]
    if rounds and not later:
        expected = "one to every rotation of its options (LLaVA's --all-rounds), or --no-circular"
        raise InputError("one answer to each question", expected, file=str(path))
    if not rounds:
        for identity in later:
            del answers[identity]
    texts = {str(question.index): question.text for question in asked}
    return answers_to(list(texts), answers, path, texts)


def _round(row: Row, key: str) -> str:
    index = _number(row, row_id(row, key), key)
    return str(index + ROUND * row.integer("round_id", range(len(string.ascii_uppercase)), 0))


# LLaVA's script drops these columns, and puts the answers in this place among the others.
_DROPPED = {"hint", "category", "source", "image", "comment", "l2-category"}
_PLACE = 6


def write_submission(path: Path, answers: Mapping[int, str], target: Path) -> None:
    """The columns that MMBench's server takes, ``prediction`` among them, with a row for every row of the table.

    Args:
        path: The table.
        answers: To every row, by index.
        target: ``.tsv`` or ``.csv``.
    """
    written = io.StringIO()
    writer = csv.writer(written, delimiter=delimiter(target), lineterminator="\n")
    for number, row in enumerate(iter_table(path)):
        kept = [name for name in row.values if name.lower() not in _DROPPED]
        if number == 0:
            writer.writerow([*kept[:_PLACE], "prediction", *kept[_PLACE:]])
        cells = [row.values[name] for name in kept]
        index = next(int(cell) for name, cell in row.values.items() if name.lower() == "index")
        writer.writerow([*cells[:_PLACE], answers[index], *cells[_PLACE:]])
    write_bytes(target, written.getvalue().encode())
