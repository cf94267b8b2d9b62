"""MME's files: questions, and answers to them.

    MME's release           a folder a subtask, in it (or in its ``questions_answers_YN``) a text file an image:
                            question, tab, Yes or No; the images beside it (or in ``images``)
    a folder of results     ``SUBTASK.txt``: image, question, Yes or No, and the answer, with tabs between
    lines of questions      JSON: ``question_id`` (``artwork/10002.jpg``), ``category``, ``question``, ``answer``
    lines of answers        LLaVA's: ``question_id``, ``prompt`` and ``text``

In LLaVA's files the two questions about an image have one id, so an answer belongs to the question that its prompt
asks, whatever instruction stands behind it. Ids of our own are unique (``artwork/1/10002.jpg``), and LLaVA's script for
MME reads subtask and image from them too.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vlm_jax.data.rows import Origin, Row, iter_rows
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import Pairing, answer_in, iter_answer_rows, paired_id
from vlm_jax.files import read_lines

# What follows a question, in MME's files and in LLaVA's.
_INSTRUCTIONS = ("Please answer yes or no.", "Answer the question using a single word or phrase.")


class Question(NamedTuple):
    """``image`` is a file's name, ``label`` yes or no."""

    id: str
    subtask: str
    image: str
    text: str
    label: str


# Subtask, image without its ending, question without instructions.
_Key = tuple[str, str, str]


def bare(text: str) -> str:
    """A question without instructions, which is how LLaVA-1.5 asks it."""
    for instruction in _INSTRUCTIONS:
        text = text.replace(instruction, "")
    return " ".join(text.split())


def read_questions(path: Path) -> list[Question]:
    """MME's release, a folder of results (their answers are left aside), or JSON lines.

    Raises:
        InputError: A row lacks something, an answer is neither Yes nor No, a question stands there twice.
    """
    found: dict[_Key, Question] = {}
    numbers: dict[tuple[str, str], int] = {}
    for place, subtask, image, text, label in _rows(path):
        if (answer := label.lower()) not in ("yes", "no"):
            raise place.wrong(f"the right answer {label!r}", "Yes or No")
        key = _key(subtask, image, text)
        if key in found:
            raise place.wrong(f"the question {text!r} about {image} of {subtask} for the second time", "one each")
        number = numbers[key[:2]] = numbers.get(key[:2], 0) + 1
        found[key] = Question(f"{subtask}/{number}/{image}", subtask, image, text, answer)
    if not found:
        raise InputError("no questions", "a folder for every subtask of MME", file=str(path))
    return list(found.values())


def read_answers(path: Path, questions: Sequence[Question], id_key: str | None = None) -> list[str]:
    """Answers in the order of the questions, from a folder of results, from LLaVA's lines or lmms-eval's log.

    Args:
        path: The file or folder.
        questions: From :func:`read_questions`.
        id_key: The only key of ids that counts.

    Raises:
        InputError: A row is to none of the questions, a question has no answer or two, a row lacks something.
    """
    ids = {question.id: place for place, question in enumerate(questions)}
    keys = {_key(question.subtask, question.image, question.text): ids[question.id] for question in questions}
    found: dict[int, str] = {}
    for place, identity, key, answer in _answers(path, Pairing(("question_id",), ids, id_key)):
        at = keys.get(key, ids.get(identity))
        # Behind an instruction that is not known the id decides, but the question has to be there.
        if at is None or (key[2] and bare(questions[at].text) not in key[2]):
            raise place.wrong(f"an answer to {key[2]!r} about {identity}", f"one of the {len(questions)} questions")
        if at in found:
            raise place.wrong(f"an answer to {key[2]!r} about {identity} for the second time", "one each")
        found[at] = answer
    if len(found) < len(questions):
        lost = next(question for place, question in enumerate(questions) if place not in found)
        raise InputError(
            f"no answer to {len(questions) - len(found)} questions, the first of them {lost.id}",
            f"an answer to each of the {len(questions)} questions",
            file=str(path),
        )
    return [found[place] for place in range(len(questions))]


def image_name(folder: Path, question: Question) -> Path:
    """Where the image lies in MME's release, relative to its folder."""
    nested = Path(question.subtask) / "images"
    return (nested if (folder / nested).is_dir() else Path(question.subtask)) / question.image


def _key(subtask: str, image: str, text: str) -> _Key:
    return subtask, _stem(image), bare(text)


def _stem(image: str) -> str:
    return image.rpartition("/")[2].partition(".")[0]


def _rows(path: Path) -> Iterator[tuple[Row, str, str, str, str]]:
    """Subtask, image, question and right answer, each with where it stands."""
    if not path.is_dir():
        for row in iter_rows(path):
            names = [row.string(key) for key in ("category", "question_id", "question", "answer")]
            yield row, names[0], names[1].rpartition("/")[2], names[2], names[3]
    elif any(path.glob("*.txt")):
        for row, subtask, columns in _results(path):
            yield row, subtask, *columns[:3]
    else:
        for folder in sorted(folder for folder in path.iterdir() if folder.is_dir()):
            yield from _release(folder)


def _release(folder: Path) -> Iterator[tuple[Row, str, str, str, str]]:
    texts, images = folder / "questions_answers_YN", folder / "images"
    texts, images = (texts if texts.is_dir() else folder), (images if images.is_dir() else folder)
    names = {_stem(file.name): file.name for file in images.iterdir() if file.suffix != ".txt"}
    for file in sorted(texts.glob("*.txt")):
        for row, columns in _columns(file, (2,), "question, Yes or No"):
            yield row, folder.name, names.get(file.stem, file.stem), *columns


def _answers(path: Path, pairing: Pairing) -> Iterator[tuple[Row, str, _Key, str]]:
    """Id, key and text of every answer, with where it stands."""
    if path.is_dir():
        for row, subtask, columns in _results(path):
            if len(columns) < 4:
                raise row.wrong("no answer behind the question", "a fourth column, the model's answer")
            image, question, _, answer = columns
            yield row, f"{subtask}/{image}", _key(subtask, image, question), answer
        return
    for row in iter_answer_rows(path, pairing):
        identity, answer = paired_id(row, pairing), answer_in(row)
        yield row, identity, _key(identity.partition("/")[0], identity, answer.question or ""), answer.text


def _results(folder: Path) -> Iterator[tuple[Row, str, list[str]]]:
    files = sorted(folder.glob("*.txt"))
    if not files:
        raise InputError("no .txt file", "a file SUBTASK.txt for every subtask", file=str(folder))
    for file in files:
        for row, columns in _columns(file, (3, 4), "image, question, Yes or No and the model's answer"):
            yield row, file.stem, columns


def _columns(file: Path, numbers: Sequence[int], what: str) -> Iterator[tuple[Row, list[str]]]:
    for number, line in enumerate(read_lines(file), 1):
        if line.strip():
            row, columns = Row(Origin(str(file), number), {}), line.rstrip("\r\n").split("\t")
            if len(columns) not in numbers:
                raise row.wrong(f"{len(columns)} columns", f"{what}, with tabs between")
            yield row, columns
