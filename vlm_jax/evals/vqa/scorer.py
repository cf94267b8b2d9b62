"""VQA-v2 (Goyal et al. 2017): open questions, ten annotators' answers each.

An answer is worth the mean, over the ten ways to leave one annotator out, of min(1, matches among the other nine / 3):
0, 30, 60, 90 and 100 % for none, one, two, three and more matches among the ten. What a match is depends on whose
script it is:

    official    ``vqaEval.py``: answers are normalised only where the annotators' differ; where all are the same, case
                and periods count, and "Yes" is worth nothing beside ten of "yes"
    llava       the same script, after EvalAI's processor has gone over the model's answers, as LLaVA's
                ``convert_vqav2_for_submission.py`` does with them
    evalai      EvalAI's processor on both sides, as in TextVQA's scorer
    lmms-eval   the official steps on both sides, always

Questions about one image are not independent, so intervals resample images.
"""

import collections
import decimal
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float

from vlm_jax.data.rows import Row, iter_listed
from vlm_jax.evals.answering.answer_files import row_id
from vlm_jax.evals.statistics.bootstrap import Statistic, safe_ratio
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty, unit_counts
from vlm_jax.evals.vqa.answers import evalai, evalai_steps, flat, normalise

Mode = Literal["official", "llava", "evalai", "lmms-eval"]


class Question(NamedTuple):
    """``answers`` as the annotators gave them, one each; the script tells annotators apart by ``answer_id``."""

    id: str
    image: str
    text: str
    question_type: str
    answer_type: str
    answers: tuple[str, ...]


def read_questions(questions: Path, annotations: Path) -> list[Question]:
    """The annotated questions, in the annotations' order, from VQA's two files.

    Raises:
        InputError: A file has another layout, an id comes twice, an annotation has no question or no answer.
    """
    texts: dict[str, str] = {}
    for row in iter_listed(questions, "questions"):
        _add(texts, row, row.string("question"))
    found: dict[str, Question] = {}
    # One string for all the annotators who say yes.
    once: dict[str, str] = {}
    for row in iter_listed(annotations, "annotations"):
        identity = row_id(row, "question_id")
        if identity not in texts:
            raise row.wrong(f"question_id {identity}", f"an id among the {len(texts)} of {questions}")
        kinds = (row.string(key) for key in ("question_type", "answer_type"))
        question_type, answer_type = (once.setdefault(kind, kind) for kind in kinds)
        answers = tuple(once.setdefault(answer, answer) for answer in _answers(row))
        image = row_id(row, "image_id")
        _add(found, row, Question(identity, image, texts[identity], question_type, answer_type, answers))
    return list(found.values())


def _add(found: dict, row: Row, value: str | Question) -> None:
    identity = row_id(row, "question_id")
    if identity in found:
        raise row.wrong(f"question_id {identity} for the second time", "ids that differ")
    found[identity] = value


def _answers(row: Row) -> list[str]:
    answers = row.require("answers")
    if not isinstance(answers, list) or not answers or not all(isinstance(one, dict) for one in answers):
        raise row.wrong(f"answers {str(answers)[:60]}", "a list of objects with a key 'answer'")
    return [row.text(one.get("answer"), "answer") for one in answers]


class Reference(NamedTuple):
    """The annotators' answers as they are compared, and what is done to an answer before."""

    answers: tuple[str, ...]
    prepare: Callable[[str], str]

    def value(self, said: str) -> float:
        """Of a prepared answer, 0 to 1. Summed annotator by annotator, which is how the script's last digit comes."""
        matches = self.answers.count(said)
        worth = [min(1.0, (matches - (answer == said)) / 3) for answer in self.answers]
        return sum(worth) / len(worth)


def reference(answers: Sequence[str], mode: Mode = "official") -> Reference:
    """What an answer is compared with.

    Args:
        answers: The annotators'.
        mode: Whose rule.
    """
    if mode in ("official", "llava"):
        flattened = tuple(map(flat, answers))
        submitted = mode == "llava"
        if len(set(flattened)) == 1:
            return Reference(flattened, evalai if submitted else flat)
        return Reference(tuple(map(normalise, flattened)), _normalise_evalai if submitted else _normalise)
    prepare = evalai if mode == "evalai" else _evalai_steps
    return Reference(tuple(map(prepare, answers)), prepare)


def _normalise(answer: str) -> str:
    return normalise(flat(answer))


def _normalise_evalai(answer: str) -> str:
    return normalise(evalai(answer))


def _evalai_steps(answer: str) -> str:
    return evalai_steps(flat(answer))


def score(answers: Sequence[str], questions: Sequence[Question], mode: Mode = "official") -> Scored:
    """Accuracies in per cent, rounded to two places as the script (Python 2) rounds: halves up.

    Args:
        answers: In the order of the questions.
        questions: From :func:`read_questions`.
        mode: Whose rule compares.

    Returns:
        ``accuracy``, and ``accuracy_TYPE`` by type of answer. ``unparsed`` counts answers of which nothing is left to
        compare.

    Raises:
        ValueError: As many answers as questions are needed.
    """
    references = [reference(one.answers, mode) for one in questions]
    said = [one.prepare(answer) for one, answer in zip(references, answers, strict=True)]
    values = [one.value(word) for one, word in zip(references, said, strict=True)]
    metrics = _metrics(values, questions)
    return Scored(
        metrics=metrics,
        per_sample=[
            {
                "question_id": one.id,
                "image": one.image,
                "question": one.text,
                "answers": list(one.answers),
                "question_type": one.question_type,
                "answer_type": one.answer_type,
                "answer": answer,
                "compared": word,
                "accuracy": rounded(100 * value),
                "fault": 1 - value,
            }
            for one, answer, word, value in zip(questions, answers, said, values, strict=True)
        ],
        empty=count_empty(answers),
        unparsed=said.count(""),
        decimals=dict.fromkeys(metrics, 2),
        tally=_tally(values, questions),
        tables={
            "by type of answer": _table(values, [one.answer_type for one in questions]),
            "by type of question": _table(values, [one.question_type for one in questions]),
        },
        baselines={f"all {word}": _metrics([one.value(word) for one in references], questions) for word in _CONSTANT},
        remarks=(_normalised(answers, values, questions, mode),),
    )


_CONSTANT = ("yes", "no")


def _normalised(answers: Sequence[str], values: Sequence[float], questions: Sequence[Question], mode: Mode) -> str:
    """How many answers only normalising tells apart: a whole model can be lost or won by it."""
    other: Mode = "llava" if mode == "official" else "official"
    references = [reference(one.answers, other) for one in questions]
    others = [one.value(one.prepare(answer)) for one, answer in zip(references, answers, strict=True)]
    moved = sum(one != two for one, two in zip(values, others, strict=True))
    if mode == "official":
        return f"normalised as LLaVA does (--mode llava) {moved} of {len(answers)} answers are worth something else"
    return f"as they stand (--mode official) {moved} of {len(answers)} answers are worth something else"


def rounded(value: float) -> float:
    """To two places, halves up, as Python 2 rounds; Python 3 has 3.125 as 3.12."""
    return float(decimal.Decimal(value).quantize(decimal.Decimal("0.01"), decimal.ROUND_HALF_UP))


def _mean(values: Sequence[float]) -> float:
    return rounded(100 * sum(values) / len(values)) if values else 0.0


def _by(values: Sequence[float], kinds: Sequence[str]) -> dict[str, list[float]]:
    found: dict[str, list[float]] = collections.defaultdict(list)
    for value, kind in zip(values, kinds, strict=True):
        found[kind].append(value)
    return dict(sorted(found.items()))


def _metrics(values: Sequence[float], questions: Sequence[Question]) -> dict[str, float]:
    apart = _by(values, [one.answer_type for one in questions])
    return {"accuracy": _mean(values)} | {_name(kind): _mean(own) for kind, own in apart.items()}


def _table(values: Sequence[float], kinds: Sequence[str]) -> dict[str, dict[str, float | int]]:
    return {kind: {"accuracy": _mean(own), "questions": len(own)} for kind, own in _by(values, kinds).items()}


def _name(answer_type: str) -> str:
    return "accuracy_" + re.sub(r"\W+", "_", answer_type)


def _tally(values: Sequence[float], questions: Sequence[Question]) -> Tally:
    """Sums of an image, overall and by type of answer: of the values, and the number of questions."""
    kinds = sorted({one.answer_type for one in questions})
    places = {kind: 2 * place for place, kind in enumerate(kinds, 1)}
    rows = np.zeros((len(values), 2 + 2 * len(kinds)))
    for row, value, one in zip(rows, values, questions, strict=True):
        place = places[one.answer_type]
        row[0] = row[place] = value
        row[1] = row[place + 1] = 1
    figures = {"accuracy": _rate(0)} | {_name(kind): _rate(place) for kind, place in places.items()}
    return Tally(*unit_counts([one.image for one in questions], rows), figures)


def _rate(place: int) -> Statistic:
    def rate(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        return 100 * safe_ratio(sums[:, place], sums[:, place + 1])

    return rate
