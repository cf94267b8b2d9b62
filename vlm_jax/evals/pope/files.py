"""POPE's files: questions, and answers to them.

    {"question_id": 1, "image": "a.jpg", "text": "Is there a dog in the image?", "label": "no"}      POPE's own
    {"question_id": "1", "question": ..., "answer": "no", "image_source": "a", "category": "popular"}   the hub's
    index, question, answer, category                                                   VLMEvalKit's table (.tsv, .xlsx)

The last two hold all three of POPE's files, told apart by their category; in VLMEvalKit's a question that several have
in common stands once, under "popular,random" say. lmms-eval asks all three at once, under the same ids, so that its log
holds three answers of every id: which of them are to these questions their texts tell. So do LLaVA's answers to its
own llava_pope_test.jsonl, where two of the three have ids of LLaVA's.
"""

import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from vlm_jax.data.rows import Row, iter_rows
from vlm_jax.data.tables import is_table, iter_table
from vlm_jax.errors import InputError, did_you_mean
from vlm_jax.evals.answering import answer_files
from vlm_jax.evals.answering.answer_files import Answer, Pairing, answers_to, paired_id, row_id

_DOCUMENT = "doc_id"  # lmms-eval's number of a question, in its logs alone.
_LONGEST_REFERENCE = 64  # Characters of a cell that says in which row the image stands; no image is that small.
# POPE's files differ in length by so much of it: 3000 rows each, but 2910 random ones when LLaVA was measured.
_UNEVEN = 0.05


class Question(NamedTuple):
    """``label`` is yes or no."""

    id: str
    image: str
    text: str
    label: str


def read_questions(path: Path, category: str | None = None) -> list[Question]:
    """A file of questions in any of the layouts, JSON in lines or as a list.

    Args:
        path: The file.
        category: Only the rows of this one, where rows have one; needed where a file has several.

    Raises:
        InputError: A row lacks a key, a label is neither yes nor no, an id comes twice, there are several categories
            and none is chosen, or none of the chosen one.
    """
    found: dict[str, Question] = {}
    there: set[str] = set()
    images: dict[str, str] = {}
    for row in iter_table(path) if is_table(path) else iter_rows(path):
        official = "label" in row.values
        question = _official(row) if official else _elsewhere(row, images)
        if not official or category is not None:
            there |= categories_of(row)
        if category is not None and category not in (categories_of(row) or {category}):
            continue
        # Before the ids, which come again in each category.
        if category is None and len(there) > 1:
            raise row.wrong(f"categories {', '.join(sorted(there))}", "one, or --category with the one that is meant")
        if question.id in found:
            raise row.wrong(f"question_id {question.id} for the second time", "ids that differ")
        found[question.id] = question
    if not found:
        absent = f"no question of category {category}{did_you_mean(str(category), there)}"
        raise InputError(absent, f"one of {', '.join(sorted(there))}", file=str(path))
    return list(found.values())


def categories_of(row: Row) -> set[str]:
    """Which of POPE's files a question stands in; nothing where the row does not say."""
    value = row.values.get("category")
    return {one.strip() for one in value.split(",")} - {""} if isinstance(value, str) else set()


def _official(row: Row) -> Question:
    # Interned: a million rows repeat a few thousand texts.
    image, text = sys.intern(row.string("image")), sys.intern(row.string("text"))
    return Question(row_id(row, "question_id"), image, text, _label(row, row.string("label")))


def _label(row: Row, label: str) -> str:
    if label not in ("yes", "no"):
        raise row.wrong(f"label {label!r}", "yes or no")
    return sys.intern(label)


def _elsewhere(row: Row, images: dict[str, str]) -> Question:
    if "question" not in row.values:
        raise row.wrong(f"no 'label' among the keys {sorted(row.values)}", "a question file of POPE's")
    identity = row_id(row, "question_id" if "question_id" in row.values else "index")
    label = _label(row, row.string("answer").strip().lower())
    return Question(identity, _image(row, identity, images), row.string("question").strip(), label)


def _image(row: Row, identity: str, images: dict[str, str]) -> str:
    """Its file, where the row says; else the row that has it first, which tells images apart all the same."""
    for key, ending in (("image_source", ".jpg"), ("image_path", "")):
        if value := row.values.get(key):
            name = row.text(value, key)
            return name if Path(name).suffix else name + ending
    cell = row.values.get("image")
    if not isinstance(cell, str) or not cell:
        return identity
    if len(cell) <= _LONGEST_REFERENCE:
        return f"{cell}.jpg" if cell.isdecimal() else cell
    return images.setdefault(cell, f"{identity}.jpg")


def answers_for(
    path: Path, questions: Sequence[Question], id_key: str | None = None, category: str | None = None
) -> tuple[list[str], tuple[str, ...]]:
    """The answers in the order of the questions, and what a result has to say of how they were found.

    Args:
        path: The file.
        questions: From :func:`read_questions`.
        id_key: The only key of ids that counts.
        category: Rows of other categories are left out, where rows have one.

    Raises:
        InputError: A question has no answer, an answer no question, or a log's answers are to other questions.
    """
    texts = {one.id: one.text for one in questions}
    pairing = Pairing(("question_id",), texts, id_key)
    log = _DOCUMENT in next(answer_files.iter_answer_rows(path, pairing)).values
    if not log and category is None:
        answers = answer_files.read_answers(path, pairing, ids=list(texts))
        remarks: tuple[str, ...] = ()
        if len(answers) > len(texts) and (these := _among(answers, questions, path, pairing)):
            rows = sorted(one.row for one in these.values())
            remark = f"rows {rows[0]} to {rows[-1]} of {len(answers)} answers; the others are to other questions"
            answers, remarks = these, (remark,)
        return answers_to(list(texts), answers, path, texts), remarks
    rows = [
        row
        for row in answer_files.iter_answer_rows(path, pairing)
        if category is None or category in (categories_of(row) or {category})
    ]
    found = {
        name: answer_files.collect_answers(block, pairing)
        for name, block in (_blocks(rows, pairing) if log else {"": rows}).items()
    }
    fitting = [name for name, answers in found.items() if _fit(answers, texts)] if len(found) > 1 else [*found]
    if len(fitting) != 1:
        said = f"answers to {len(found)} files of questions ({', '.join(found)}), {len(fitting)} of them to these"
        raise InputError(said, "answers to one, or the category of the questions (--category)", file=str(path))
    others = ", ".join(other for other in found if other != fitting[0])
    remarks = (f"answers to {fitting[0]} of lmms-eval's log; left out: {others}",) if others else ()
    return answers_to(list(texts), found[fitting[0]], path, texts), remarks


def _among(
    answers: Mapping[str, Answer], questions: Sequence[Question], path: Path, pairing: Pairing
) -> dict[str, Answer]:
    """Of LLaVA's answers to all three of POPE's files in one, two of them under ids of its own, those to these
    questions; nothing where nobody can tell. Ids go before places, and what is left must be whole files."""
    rows, wanted = list(answers.values()), [one.text for one in questions]
    if all(one.id in answers and one.text in (answers[one.id].question or "") for one in questions):
        found = {one.id: answers[one.id] for one in questions}
        places = sorted(place for place, identity in enumerate(answers) if identity in found)
    else:
        starts = [
            start
            for start in range(len(rows) - len(wanted) + 1)
            if all(text in (rows[start + place].question or "") for place, text in enumerate(wanted))
        ]
        if len(starts) != 1:
            return {}
        places = list(range(starts[0], starts[0] + len(wanted)))
        found = {one.id: rows[place] for one, place in zip(questions, places, strict=True)}
    before, behind = places[0], len(rows) - places[-1] - 1
    in_a_line = before + len(places) + behind == len(rows)
    if not (in_a_line and _whole_files(before, len(places)) and _whole_files(behind, len(places))):
        return {}
    named = {row.origin.row: _named_image(row) for row in answer_files.iter_answer_rows(path, pairing)}
    same = all(_same_image(named[found[one.id].row], one.image) for one in questions)
    return found if same else {}


def _whole_files(rows: int, size: int) -> bool:
    """Whether so many rows are none, or files of about the size of one."""
    return abs(rows - size * round(rows / size)) <= _UNEVEN * rows


def _named_image(row: Row) -> str | None:
    """The image that an answer says it is about."""
    named = (row.values.get(key) for key in ("image", "image_source", "image_path", "image_id"))
    return next((str(one) for one in named if type(one) in (int, str) and one != ""), None)


def _same_image(named: str | None, image: str) -> bool:
    """Whether a name means a question's image: its file wherever that lies, or COCO's number in it."""
    if named is None:
        return True
    one, other = Path(named).stem, Path(image).stem
    number = re.search(r"\d+$", other)
    return one == other or bool(one.isdecimal() and number and number[0].lstrip("0") == one.lstrip("0"))


def _blocks(rows: Iterable[Row], pairing: Pairing) -> dict[str, list[Row]]:
    """The samples of each of POPE's files, in a log: by their category, where there is none by how often their id has
    come before in the data set."""
    found: dict[str, list[Row]] = {}
    seen: Counter[str] = Counter()
    for row in sorted(rows, key=lambda row: row.integer(_DOCUMENT, range(2**31))):
        identity = paired_id(row, pairing)
        seen[identity] += 1
        name = ", ".join(sorted(categories_of(row))) or f"file {seen[identity]}"
        found.setdefault(name, []).append(row)
    return found


def _fit(answers: dict[str, Answer], texts: dict[str, str]) -> bool:
    return answers.keys() == texts.keys() and all(text in (answers[one].question or "") for one, text in texts.items())
