"""HallusionBench's files: its questions, and answers to them with or without a judge's verdicts."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypeVar

from vlm_jax.data.rows import Row, iter_rows
from vlm_jax.data.tables import is_table
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import (
    Answer,
    Pairing,
    answer_in,
    iter_answer_rows,
    paired_id,
    row_id,
)
from vlm_jax.evals.answering.vlmevalkit_tables import INDEX, is_prediction

VERDICT_KEY = "gpt4v_output_gpt_check"
_V = TypeVar("_V")
_KEYS = ("category", "subcategory", "set_id", "figure_id", "question_id")


class Question(NamedTuple):
    """``category`` is VD (visual dependent) or VS (visual supplement), ``visual_input`` 0 (no figure), 1 (original) or
    2 (edited), ``label`` yes or no, ``image`` the path of the figure, or None."""

    category: str
    subcategory: str
    set_id: str
    figure_id: str
    question_id: str
    visual_input: int
    label: str
    text: str
    image: str | None

    @property
    def id(self) -> str:
        return "_".join(self[:5])

    @property
    def set(self) -> str:
        """Questions and figures that belong together."""
        return "_".join(self[:3])

    @property
    def figure(self) -> str:
        return "_".join(self[:4])

    @property
    def group(self) -> str:
        """The question, whatever the figure."""
        return f"{self.set}_{self.question_id}"

    @property
    def without_figure(self) -> bool:
        return self.category == "VS" and self.figure_id == "0"


class Judged(NamedTuple):
    """By a question's id: answers, verdicts (0 wrong, 1 right, 2 unclear) where a judge gave any, and whether answers
    agree with those about figure 0 where it said so."""

    answers: dict[str, Answer]
    verdicts: dict[str, int]
    same: dict[str, bool]


def read_questions(path: Path) -> list[Question]:
    """``HallusionBench.json``, or some of its rows.

    Raises:
        InputError: A row lacks a key or has an odd value, or a question stands there twice.
    """
    found: dict[str, Question] = {}
    for row in iter_rows(path):
        names = [row_id(row, key) for key in _KEYS]
        if names[0] not in ("VD", "VS"):
            raise row.wrong(f"category {names[0]!r}", "VD or VS")
        shown, answer, image = _choice(row, "visual_input", 3), _choice(row, "gt_answer", 2), row.values.get("filename")
        question = Question(
            *names,
            visual_input=shown,
            label="yes" if answer else "no",
            text=row.string("question"),
            image=None if image is None else row.text(image, "filename"),
        )
        if question.id in found:
            raise row.wrong(f"question {question.id} for the second time", "questions that differ")
        found[question.id] = question
    return list(found.values())


def read_judged(
    path: Path, verdict_key: str = VERDICT_KEY, questions: Sequence[Question] = (), id_key: str | None = None
) -> Judged:
    """Answers, and what a judge made of them: the official script's ``hallusion_output_vd_model.json`` and
    ``hallusion_output_vs_model.json`` (a folder with both, or one file), HallusionBench's rows with a
    ``model_prediction``, LLaVA's lines with ids such as ``VD_illusion_0_1_0`` (category, subcategory, set, figure,
    question), lmms-eval's log, or VLMEvalKit's table, whose index ends in such an id.

    Args:
        path: A file, or a folder whose files (.json, .jsonl or tables) belong together.
        verdict_key: Where a judge's 0, 1 or 2 stands; VLMEvalKit has true and false.
        questions: From :func:`read_questions`.
        id_key: The only key of ids that counts, where rows have no categories.

    Raises:
        InputError: A row without id or answer, an answer for the second time, a verdict that is none.
    """
    found, pairing = Judged({}, {}, {}), Pairing(_KEYS[-1:], {one.id for one in questions}, id_key)
    for file in _files(path):
        for row in iter_answer_rows(file, pairing):
            identity = _identity(row, pairing)
            if identity in found.answers:
                raise row.wrong(f"an answer to {identity} for the second time", "one each")
            found.answers[identity] = answer_in(row)
            if verdict_key in row.values:
                found.verdicts[identity] = _verdict(row, verdict_key)
            if "same" in row.values:
                found.same[identity] = bool(_choice(row, "same", 2))
    return found


_ID_AT_ITS_END = re.compile(r"(?:^|_)((?:VD|VS)_[^_]+_\d+_\d+_\d+)$")


def _identity(row: Row, pairing: Pairing) -> str:
    if is_prediction(row):
        index = row_id(row, INDEX)
        if not (end := _ID_AT_ITS_END.search(index)):
            raise row.wrong(f"index {index[:60]!r}", "one that ends in an id such as VD_illusion_0_1_0")
        return end[1]
    if "category" in row.values:
        return "_".join(row_id(row, key) for key in _KEYS)
    return paired_id(row, pairing)


def _verdict(row: Row, key: str) -> int:
    value = row.values[key]
    if is_prediction(row) and str(value) in ("True", "False"):
        return int(str(value) == "True")
    return _choice(row, key, 3)


def answered_of(questions: Sequence[Question], answers: Mapping[str, Answer]) -> list[Question]:
    """The questions: all, or those with a figure where no other is answered, since not all tools ask the others."""
    without = [one for one in questions if one.image is None]
    if len(without) == len(questions) or any(one.id in answers for one in without):
        return list(questions)
    return [one for one in questions if one.image is not None]


def values_for(
    ids: Iterable[str], values: Mapping[str, _V], file: Path, what: str, wanted: str = "one on each answer"
) -> list[_V]:
    """What a judge said of each answer.

    Raises:
        InputError: It said nothing of one.
    """
    ids = list(ids)
    if lost := [identity for identity in ids if identity not in values]:
        raise InputError(f"no {what} on {len(lost)} answers, the first of them {lost[0]}", wanted, file=str(file))
    return [values[identity] for identity in ids]


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = sorted(file for file in path.iterdir() if file.suffix in (".json", ".jsonl") or is_table(file))
    if not files:
        raise InputError("no .json or .jsonl file and no table", "files of answers", file=str(path))
    return files


def _choice(row: Row, key: str, choices: int) -> int:
    """A number from 0 up, written as a number or as text."""
    value = row_id(row, key)
    if value not in map(str, range(choices)):
        raise row.wrong(f"{key} {value!r}", f"{key} {' or '.join(map(str, range(choices)))}")
    return int(value)
