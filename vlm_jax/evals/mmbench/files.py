"""MMBench's files: its table of questions and images, answers to it, and what its server takes.

The table (TSV) has a row a question: ``index``, ``question``, ``hint``, the options under ``A``, ``B``, ..., ``answer``
(a letter; hidden in test splits), ``category``, ``l2-category``, ``split`` and ``image`` (base64, or the index of the
row that has the image). Older tables repeat each question with its options rotated, under index + 1000000 a round.

A cell is its text, and an empty one is missing: an option may well be called "None" or "NA". The published scripts read
the table with pandas, to which these are missing, and LLaVA's takes "None" and "nan" in any case for missing too
(``is_none``), so that a question loses this option and those behind it. Who wants published figures wants that too:

    text      a cell is its text
    pandas    the scripts' slip; a question that has lost its right answer keeps the letter, which nobody is offered
"""

import base64
import binascii
import csv
import hashlib
import io
import itertools
import string
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Literal, NamedTuple

from vlm_jax.data.rows import Row
from vlm_jax.data.tables import delimiter, iter_table
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import Pairing, answers_to, collect_answers, iter_answer_rows, row_id
from vlm_jax.files import write_bytes

ROUND = 1_000_000
_LONGEST_REFERENCE = 64  # Characters; no image is that small.

Cells = Literal["text", "pandas"]
# What pandas reads as a missing cell, and what LLaVA's script does in any case.
_PANDAS = set("#N/A,#N/A N/A,#NA,-1.#IND,-1.#QNAN,-NaN,-nan,1.#IND,1.#QNAN,<NA>,N/A,NA,NULL,n/a,null".split(","))
_LLAVA_IN_ANY_CASE = {"nan", "none"}


class Question(NamedTuple):
    """A question as it is asked, once: a circular evaluation asks it again with its options rotated, under
    ``index`` + ROUND a round.

    ``answer`` is a letter, None where it is hidden; ``image`` the index of the first row with the same image, None
    where there is none; ``category``, ``l2_category`` and ``split`` are empty where the table does not say; ``lost``
    says whether the slip took options away.
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
    lost: bool = False

    @property
    def main(self) -> int:
        """Index of the question before any rotation."""
        return self.index % ROUND

    @property
    def lettered(self) -> dict[str, str]:
        """Letter -> option."""
        return dict(zip(string.ascii_uppercase, self.options, strict=False))


def read_questions(path: Path, cells: Cells = "text") -> list[Question]:
    """All rows of MMBench's table, in the order of their indices; images stay in the file.

    Args:
        path: The table.
        cells: What counts as a missing cell.

    Raises:
        InputError: The file is no such table, an index is no number or comes twice, a question has no options, an
            answer is none of its letters, the row of an image is not there, a rotated question stands without its
            first form, or some answers are hidden and others not.
    """
    found: dict[int, Question] = {}
    first: dict[bytes, int] = {}  # Hash of an image -> its first row.
    references: dict[int, Row] = {}
    for row in _rows(path):
        index, cell, image = _index(row), _cell(row, "image", cells), None
        if index in found:
            raise row.wrong(f"index {index} for the second time", "indices that differ")
        if len(cell) > _LONGEST_REFERENCE:
            image = first.setdefault(hashlib.sha256(cell.encode()).digest(), index)
        elif cell:
            references[index] = row
        found[index] = _question(row, index, image, cells)
    for index, row in references.items():
        found[index] = found[index]._replace(image=_referred(row, found))
    _check(path, found)
    return [found[index] for index in sorted(found)]


def _rows(path: Path) -> Iterator[Row]:
    """Columns in lower case except the options', as the scorers have them."""
    for row in iter_table(path):
        yield Row(row.origin, {name if len(name) == 1 else name.lower(): cell for name, cell in row.values.items()})


def _cell(row: Row, name: str, cells: Cells) -> str:
    cell = row.values.get(name, "")
    return "" if cells == "pandas" and is_slip(cell) else cell


def is_slip(cell: str) -> bool:
    """Whether a cell has text that the published scripts take for none."""
    return cell in _PANDAS or cell.lower() in _LLAVA_IN_ANY_CASE


_DIGITS = 18


def _index(row: Row) -> int:
    return _number(row, row.require("index"), "index")


def _number(row: Row, written: str, what: str) -> int:
    if not (written.isascii() and written.isdecimal() and len(written) <= _DIGITS):
        raise row.wrong(f"{what} {written[:60]!r}", f"{what} as a number")
    return int(written)


def _question(row: Row, index: int, image: int | None, cells: Cells) -> Question:
    options, written = _options(row, cells), _options(row, "text")
    letters = string.ascii_uppercase[: len(written)]
    if not letters:
        raise row.wrong("no option A", "options under A, B, ...")
    answer = _cell(row, "answer", cells) or None
    if answer is not None and (len(answer) > 1 or answer not in letters):
        raise row.wrong(f"answer {answer[:60]!r}", f"one of {', '.join(letters)}")
    kinds = (_cell(row, name, cells) for name in ("category", "l2-category", "split"))
    hint = _cell(row, "hint", cells)
    return Question(index, row.require("question"), hint, tuple(options), answer, *kinds, image, options != written)


def _options(row: Row, cells: Cells) -> list[str]:
    return list(itertools.takewhile(bool, (_cell(row, letter, cells) for letter in string.ascii_uppercase)))


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


def slips(questions: Sequence[Question]) -> tuple[str, ...]:
    """What a result says of options that the published scripts take for missing; nothing where there are none."""
    if lost := sum(one.lost for one in questions):
        return (f"{lost} questions have lost options called None, NA or alike, as in the published scripts",)
    if named := sum(any(map(is_slip, one.options)) for one in questions):
        return (f"{named} questions have an option called None, NA or alike, where the published scripts end the list",)
    return ()


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
    # Without any option left it is asked as it stands.
    rounds = [_rotated(question, turn) for question in once for turn in range(len(question.options) or 1)]
    return sorted(rounds, key=lambda question: question.index)


def _rotated(question: Question, turn: int) -> Question:
    options, letters = question.options, string.ascii_uppercase
    answer = question.answer
    # One that is not among the options any more has no place to move to.
    if answer in question.lettered:
        answer = letters[(letters.index(answer) - turn) % len(options)]
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


def read_answers(path: Path, asked: Sequence[Question], id_key: str | None = None) -> list[str]:
    """The answers in the order of what was asked.

    Args:
        path: LLaVA's JSON lines, where each round of ``--all-rounds`` is a ``round_id``; JSON or a table (.tsv, .csv,
            .xlsx) with ``index`` and ``prediction``, as VLMEvalKit writes it; lmms-eval's log.
        asked: From :func:`passes`. Where nothing was asked twice, answers to later rounds are left out.
        id_key: The only key of ids that counts.

    Raises:
        InputError: A question has no answer, an answer no question, or an id comes twice.
    """
    texts = {str(question.index): question.text for question in asked}
    pairing = Pairing(("question_id", "index"), texts, id_key)
    answers = collect_answers(iter_answer_rows(path, pairing), pairing, _round)
    rounds = any(question.index >= ROUND for question in asked)
    later = [identity for identity in answers if int(identity) >= ROUND]
    if rounds and not later:
        expected = "one to every rotation of its options (LLaVA's --all-rounds), or --no-circular"
        raise InputError("one answer to each question", expected, file=str(path))
    if not rounds:
        for identity in later:
            del answers[identity]
    if any(identity not in answers for identity in texts) and any(map(is_slip, _all_options(asked))):
        found = "fewer rounds than options of a question with one called None, NA or alike"
        raise InputError(found, "an answer to every round, or --cells pandas for LLaVA's own rounds", file=str(path))
    return answers_to(list(texts), answers, path, texts)


def _all_options(asked: Iterable[Question]) -> Iterator[str]:
    return (option for question in asked for option in question.options)


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
