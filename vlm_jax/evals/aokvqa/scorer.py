"""A-OKVQA (Schwenk et al. 2022): questions that need knowledge of the world, with four choices and with ten direct
answers, as ``eval_predictions.py`` scores both: the right choice to the letter, and min(1, direct answers to the letter
/ 3) over the questions that are not marked as difficult to answer directly.

Free text is read first: a choice by one of MMBench's rules (``option_letters.py``), a direct answer by EvalAI's
processor, which LLaVA applies to what it submits to VQA's server.

Questions about one image are not independent, so intervals resample images.
"""

import json
import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from vlm_jax.data.rows import Origin, Row, iter_rows
from vlm_jax.data.tables import is_table
from vlm_jax.errors import InputError
from vlm_jax.evals.answering.answer_files import Pairing, read_answers, row_id
from vlm_jax.evals.answering.lmms_eval_logs import is_old_log
from vlm_jax.evals.reading.option_letters import find
from vlm_jax.evals.statistics.bootstrap import Statistic, safe_ratio
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty, unit_counts
from vlm_jax.evals.vqa.answers import evalai
from vlm_jax.files import read_json, read_lines

Mode = Literal["vlmevalkit", "lmms-eval", "exact"]
Task = Literal["multiple_choice", "direct_answer"]
TASKS: tuple[Task, ...] = ("multiple_choice", "direct_answer")

Predictions = Mapping[str, str]  # By question_id.


class Question(NamedTuple):
    """``right`` is the place of the right choice; questions marked ``difficult`` have no score for direct answers."""

    id: str
    image: str
    text: str
    choices: tuple[str, ...]
    right: int
    direct_answers: tuple[str, ...]
    difficult: bool

    @property
    def lettered(self) -> dict[str, str]:
        """Letter -> choice."""
        return dict(zip(string.ascii_uppercase, self.choices, strict=False))

    @property
    def prompt(self) -> str:
        """The question with its choices, as LLaVA asks."""
        return "\n".join([self.text, *(f"{letter}. {choice}" for letter, choice in self.lettered.items())])

    def tasks(self) -> tuple[Task, ...]:
        """What the question is scored for."""
        return ("multiple_choice",) if self.difficult else TASKS


def read_questions(path: Path) -> list[Question]:
    """``aokvqa_v1p0_SPLIT.json`` with its answers.

    Raises:
        InputError: A row lacks a field (the test split has no answers), or an id comes twice.
    """
    found: dict[str, Question] = {}
    for row in iter_rows(path):
        identity, image, text = row_id(row, "question_id"), row_id(row, "image_id"), row.require("question")
        if identity in found:
            raise row.wrong(f"question_id {identity} for the second time", "ids that differ")
        choices, answers = _texts(row, "choices"), _texts(row, "direct_answers")
        difficult = row.require("difficult_direct_answer")
        if type(difficult) is not bool:
            raise row.wrong(f"difficult_direct_answer {difficult!r}", "true or false")
        right = row.integer("correct_choice_idx", range(len(choices)))
        found[identity] = Question(identity, image, row.text(text, "question"), choices, right, answers, difficult)
    return list(found.values())


def _texts(row: Row, key: str) -> tuple[str, ...]:
    values = row.require(key)
    if not isinstance(values, list) or not values:
        raise row.wrong(f"{key} {str(values)[:60]}", f"{key} as a list of text")
    return tuple(row.text(value, key) for value in values)


class Answers(NamedTuple):
    """Predictions by task, the result's name for how they were read, and what free text they were read from."""

    tasks: Mapping[Task, Predictions]
    mode: str
    texts: Mapping[str, str] = {}

    @property
    def said(self) -> list[str]:
        """All that the model said."""
        return [*self.texts.values()] or [text for own in self.tasks.values() for text in own.values()]


def read_predictions(
    path: Path, questions: Sequence[Question], task: Task, mode: Mode, strict: bool, id_key: str | None = None
) -> Answers:
    """Predictions in A-OKVQA's own format, ``{question_id: {"multiple_choice": ..., "direct_answer": ...}}``, which are
    taken as they stand, or free text in LLaVA's, which is read.

    Args:
        path: The file.
        questions: From :func:`read_questions`.
        task: What free text answers.
        mode: How it is read: a choice by whose rule, a direct answer by EvalAI's processor; ``exact`` leaves both as
            they stand.
        strict: Whether every question needs a prediction, and one in A-OKVQA's own format has to be a choice.
        id_key: The only key of ids that counts in free text.

    Raises:
        InputError: The file holds something else, or is no good to be strict about.
    """
    own = _is_own_format(path)
    if own:
        tasks = _own_format(path)
    else:
        pairing = Pairing(("question_id",), {one.id for one in questions}, id_key)
        texts = {identity: answer.text for identity, answer in read_answers(path, pairing).items()}
        tasks = {task: _read(texts, questions, task, mode)}
    if strict:
        for name, predictions in tasks.items():
            _check(path, questions, name, predictions, choices=own)
    if own:
        return Answers(tasks, "official")
    return Answers(tasks, "evalai" if task == "direct_answer" and mode != "exact" else mode, texts)


def _is_own_format(path: Path) -> bool:
    if is_table(path) or is_old_log(path):
        return False
    first = next((line for line in read_lines(path) if line.strip()), "").strip()
    if first.startswith("["):
        return False
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        return True  # An object over many lines, or an error that its reader explains.
    return isinstance(value, dict) and all(isinstance(one, dict) for one in value.values())


def _own_format(path: Path) -> dict[Task, dict[str, str]]:
    found: dict[Task, dict[str, str]] = {task: {} for task in TASKS}
    for number, (identity, values) in enumerate(read_json(path, unique=True).items(), 1):
        row = Row(Origin(str(path), number), values)
        row.text(identity, "a question_id")
        if not isinstance(values, dict):
            raise row.wrong(f"{identity}: {str(values)[:60]}", f"texts under {' and '.join(TASKS)}")
        for task in TASKS:
            if task in values:
                found[task][identity] = row.string(task)
    if not any(found.values()):
        raise InputError("no predictions", f"some under {' or '.join(TASKS)}", file=str(path))
    return {task: predictions for task, predictions in found.items() if predictions}


def _read(texts: Mapping[str, str], questions: Sequence[Question], task: Task, mode: Mode) -> dict[str, str]:
    if mode == "exact":
        return dict(texts)
    if task == "direct_answer":
        return {identity: evalai(text) for identity, text in texts.items()}
    by_id = {one.id: one for one in questions}
    # Text for a question that is not there stays as it is: it is counted, and scored nowhere.
    return {
        identity: choice(text, by_id[identity], mode) if identity in by_id else text for identity, text in texts.items()
    }


def choice(text: str, question: Question, mode: Literal["vlmevalkit", "lmms-eval"]) -> str:
    """The choice that free text means, empty where it means none."""
    letter = find(text, question.lettered, mode)
    return question.lettered.get(letter, "") if letter else ""


def _check(path: Path, questions: Sequence[Question], task: Task, predictions: Predictions, choices: bool) -> None:
    """The script's assertions."""
    asked = [one for one in questions if task in one.tasks()]
    if lost := [one.id for one in asked if one.id not in predictions]:
        found = f"no {task} for {len(lost)} of {len(asked)} questions, {lost[0]} among them"
        raise InputError(found, "one for each, or --no-strict", file=str(path))
    if choices and task == "multiple_choice":
        for one in asked:
            if predictions[one.id] not in one.choices:
                found = f"multiple_choice {predictions[one.id][:60]!r} for {one.id}"
                raise InputError(found, f"one of {', '.join(one.choices)}, or --no-strict", file=str(path))


def score(answers: Mapping[Task, Predictions], questions: Sequence[Question], texts: Mapping[str, str] = {}) -> Scored:
    """Accuracies in per cent, of the tasks that have predictions; a question without one has 0.

    Args:
        answers: Task -> predictions.
        questions: From :func:`read_questions`.
        texts: Free text by id that the predictions were read from, for the reader.

    Returns:
        ``multiple_choice`` and ``direct_answer``. ``unparsed`` counts predictions that are none of the choices, and
        empty direct answers.
    """
    values = {task: _values(task, predictions, questions) for task, predictions in answers.items()}
    chosen = answers.get("multiple_choice", {})
    unparsed = [one for one in questions if one.id in chosen and chosen[one.id] not in one.choices]
    empty = [one for one in questions if not one.difficult and answers.get("direct_answer", {}).get(one.id) == ""]
    known = {one.id for one in questions}
    said = [*texts.values()] or [text for predictions in answers.values() for text in predictions.values()]
    surplus = len({identity for predictions in answers.values() for identity in predictions} - known)
    return Scored(
        metrics={task: _mean(own) for task, own in values.items()},
        per_sample=[_row(one, answers, values, texts) for one in questions],
        unparsed=len(unparsed) + len(empty),
        tally=_tally(values, questions),
        tables=_tables(values, questions),
        baselines=_baselines(questions) if "multiple_choice" in answers else {},
        remarks=(f"{surplus} predictions for other questions are left out",) if surplus else (),
        asked=len(said),
        empty=count_empty(said),
    )


def _values(task: Task, predictions: Predictions, questions: Sequence[Question]) -> dict[str, float]:
    """0 to 1, of every question that the task has."""
    return {one.id: _value(task, predictions.get(one.id), one) for one in questions if task in one.tasks()}


def _value(task: Task, said: str | None, one: Question) -> float:
    if said is None:
        return 0.0
    if task == "multiple_choice":
        return float(said == one.choices[one.right])
    return min(1.0, one.direct_answers.count(said) / 3)


def _mean(values: Mapping[str, float]) -> float:
    return sum(values.values()) / len(values) * 100 if values else 0.0


def _baselines(questions: Sequence[Question]) -> dict[str, dict[str, float | int]]:
    letters = sorted({letter for one in questions for letter in one.lettered})
    right = [string.ascii_uppercase[one.right] for one in questions]
    return {f"all {letter}": {"multiple_choice": 100 * right.count(letter) / len(right)} for letter in letters}


def _row(
    one: Question,
    answers: Mapping[Task, Predictions],
    values: Mapping[Task, Mapping[str, float]],
    texts: Mapping[str, str],
) -> dict[str, Any]:
    found: dict[str, Any] = {"question_id": one.id, "image": one.image, "question": one.prompt}
    found |= {"right": one.choices[one.right]} | ({"answer": texts[one.id]} if one.id in texts else {})
    for task in answers:
        found |= {task: answers[task].get(one.id), f"{task}_value": values[task].get(one.id)}
    reached = [own[one.id] for own in values.values() if one.id in own]
    return found | {"fault": 1 - sum(reached) / len(reached) if reached else 0.0}


def _tables(
    values: Mapping[Task, Mapping[str, float]], questions: Sequence[Question]
) -> dict[str, dict[str, dict[str, float | int]]]:
    """How much the place of the right choice matters."""
    if "multiple_choice" not in values:
        return {}
    apart: dict[str, list[float]] = {}
    for one in sorted(questions, key=lambda one: one.right):
        apart.setdefault(string.ascii_uppercase[one.right], []).append(values["multiple_choice"][one.id])
    return {
        "by letter of the right choice": {
            letter: {"multiple_choice": 100 * sum(own) / len(own), "questions": len(own)}
            for letter, own in apart.items()
        }
    }


def _tally(values: Mapping[Task, Mapping[str, float]], questions: Sequence[Question]) -> Tally:
    """Sums of an image: of the values and of the questions, by task."""
    rows = np.zeros((len(questions), 2 * len(values)))
    for row, one in zip(rows, questions, strict=True):
        for place, own in enumerate(values.values()):
            if one.id in own:
                row[2 * place : 2 * place + 2] = own[one.id], 1
    figures = {task: _rate(2 * place) for place, task in enumerate(values)}
    return Tally(*unit_counts([one.image for one in questions], rows), figures)


def _rate(place: int) -> Statistic:
    def rate(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        return 100 * safe_ratio(sums[:, place], sums[:, place + 1])

    return rate
