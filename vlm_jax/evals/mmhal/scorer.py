"""MMHal-Bench (Sun et al. 2023): 96 open questions of eight types, answers rated from 0 to 6 by a judge that reads;
below 3 is a hallucination.

official    the benchmark's own script: ``Rating: 5`` in exactly these characters, one rating in all; anything else is 0
robust      any spelling of one rating ("Rating: **5**", "rating is 5/6"); an answer without one is left out
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from vlm_jax.data.rows import Row, iter_rows
from vlm_jax.errors import InputError
from vlm_jax.evals.answering import answer_files
from vlm_jax.evals.judges.interface import JudgeRequest
from vlm_jax.evals.mmhal.rubric import fill
from vlm_jax.evals.statistics.bootstrap import Statistic, safe_ratio
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty, unit_counts

Mode = Literal["official", "robust"]
MODES: tuple[Mode, ...] = get_args(Mode)

# Record i is of type i mod 8, which is how the script finds types.
TYPES = ("attribute", "adversarial", "comparison", "counting", "relation", "environment", "holistic", "other")
QUESTIONS = 96
_BEST, _HALLUCINATED_BELOW = 6, 3


class Question(NamedTuple):
    """``id`` is the place in the file, from 0; ``image`` the file name at the end of its address; ``truth`` what a rule
    needs to judge, in drawn worlds only."""

    id: str
    type: str
    image: str
    contents: tuple[str, ...]
    text: str
    reference: str
    truth: dict[str, Any] | None


def read_questions(path: Path) -> list[Question]:
    """The benchmark's ``mmhal-bench_answer_template.json``, filled in or not, or a drawn world's ``mmhal_*.json``.

    Raises:
        InputError: A row lacks a key, or the order of types is another: rows were moved or lost.
    """
    found = []
    for place, row in enumerate(iter_rows(path)):
        kind, text, reference, source = (
            row.string(key) for key in ("question_type", "question", "gt_answer", "image_src")
        )
        if kind != TYPES[place % len(TYPES)]:
            raise row.wrong(f"question_type {kind!r}", f"{TYPES[place % len(TYPES)]!r}, rows in the benchmark's order")
        image, truth = source.rpartition("/")[2], row.values.get("truth")
        found.append(Question(str(place), kind, image, _contents(row), text, reference, truth))
    return found


def _contents(row: Row) -> tuple[str, ...]:
    contents = row.require("image_content")
    if not isinstance(contents, list):
        raise row.wrong(f"image_content of type {type(contents).__name__}", "a list of names")
    return tuple(row.text(one, "image_content") for one in contents)


def read_answers(path: Path, questions: Sequence[Question], id_key: str | None = None) -> list[str]:
    """Answers in the order of the questions: the template with its ``model_answer`` filled in, or LLaVA's JSON lines
    with the questions' places as ids.

    Args:
        path: The file.
        questions: From :func:`read_questions`.
        id_key: The only key of ids that counts.

    Raises:
        InputError: Answers to other questions, too few or too many.
    """
    rows = list(answer_files.iter_answer_rows(path))
    if "model_answer" not in rows[0].values or "question_id" in rows[0].values:
        texts = {one.id: one.text for one in questions}
        pairing = answer_files.Pairing(("question_id",), texts, id_key)
        return answer_files.answers_to(list(texts), answer_files.read_answers(path, pairing), path, texts)
    if len(rows) != len(questions):
        raise InputError(f"{len(rows)} rows", f"a row for each of the {len(questions)} questions", file=str(path))
    for row, question in zip(rows, questions, strict=True):
        if row.require("question") != question.text:
            raise row.wrong(f"the question {row.values['question']!r:.80}", f"{question.text!r}")
    return [row.string("model_answer") for row in rows]


def requests(questions: Sequence[Question], answers: Sequence[str], template: str) -> list[JudgeRequest]:
    """What a judge is asked about each answer: one message, no system line, temperature 0, as in the script.

    Args:
        questions: From :func:`read_questions`.
        answers: In their order.
        template: From ``mmhal_rubric.read_template``.
    """
    return [
        JudgeRequest(
            id=one.id,
            user=fill(
                template,
                image_contents=", ".join(one.contents),
                question=one.text,
                reference=one.reference,
                response=answer,
            ),
            answer=answer,
        )
        for one, answer in zip(questions, answers, strict=True)
    ]


def parse(judgement: str, mode: Mode = "official") -> int | None:
    """The rating in a judge's text; None where the rule finds none, or several."""
    return _official(judgement) if mode == "official" else _robust(judgement)


def _official(judgement: str) -> int | None:
    # As a part of the text, so that a rating of 10 is 1 and one behind asterisks is none.
    said = judgement.lower()
    return _only({rating for rating in range(_BEST + 1) if f"rating: {rating}" in said})


# A whole number on the scale: no decimals, no range, no other scale's "out of".
_ON_SCALE = r"([0-6])(?!\d|\.\d|\s*(?:-|\u2013|to\b|or\b)\s*\d|\s*(?:/|out of\b)(?!\s*(?:6|six)\b))"
_MARKS = r"(?:[^\w\n]|_)*"
_SAID = rf"\brating\b{_MARKS}(?:(?:is|of)\b{_MARKS})?{_ON_SCALE}"
# A judge may speak of other ratings before it gives its own, which stands in a line of its own or under a heading.
_RULES = [
    re.compile(rule, re.IGNORECASE | re.MULTILINE)
    for rule in (
        rf"^{_MARKS}(?:(?:my|the|final|overall)\s+)*{_SAID}.*",
        rf"^{_MARKS}rating{_MARKS}\n(?:{_MARKS}\n){{0,2}}{_MARKS}{_ON_SCALE}{_MARKS}$",
        _SAID,
    )
]

_ANOTHER = re.compile(rf"\brating\b[\s*_]*[:=]{_MARKS}{_ON_SCALE}", re.IGNORECASE)


def _robust(judgement: str) -> int | None:
    for rule in _RULES:
        # And another verdict in its line: "Rating: 3 or Rating: 4".
        said = {int(rating) for one in rule.finditer(judgement) for rating in (one[1], *_ANOTHER.findall(one[0]))}
        if said:
            return _only(said)
    return None


def _only(ratings: set[int]) -> int | None:
    return ratings.pop() if len(ratings) == 1 else None


def tally(ratings: Sequence[int | None], images: Sequence[str] | None = None) -> Tally:
    """``score``, ``hallucination_rate`` (share below 3) and RLAIF-V's ``informativeness`` (percent: how far above 0, or
    from 3 on above 3, of three), over the answers that have a rating.

    Args:
        ratings: 0 to 6, or None.
        images: For each answer, its image; none means an image of its own.

    Raises:
        ValueError: The lists differ in length or a rating lies outside 0 to 6.
    """
    rows = np.zeros((len(ratings), 4))
    for row, rating in zip(rows, ratings, strict=True):
        if rating is not None:
            if rating not in range(_BEST + 1):
                raise ValueError(f"MMHal needs one type and a rating of 0 to 6 an answer, got {rating}")
            sound = rating >= _HALLUCINATED_BELOW
            row[:] = rating, not sound, rating - _HALLUCINATED_BELOW if sound else rating, 1
    if images is None:
        return Tally([str(place) for place in range(len(rows))], rows, _FIGURES)
    return Tally(*unit_counts(images, rows), _FIGURES)


def _mean(column: int, factor: float = 1.0) -> Statistic:
    def mean(sums: Float[np.ndarray, "r 4"]) -> Float[np.ndarray, " r"]:
        return factor * safe_ratio(sums[:, column], sums[:, 3])

    return mean


_FIGURES = {"score": _mean(0), "hallucination_rate": _mean(1), "informativeness": _mean(2, 100 / 3)}


def score(ratings: Sequence[int], types: Sequence[str]) -> dict[str, Any]:
    """Mean rating, hallucination rate (rating < 3), mean rating of each type; 95 % bootstrap intervals over questions.

    Raises:
        ValueError: The lists differ in length or a rating lies outside 0 to 6.
    """
    if len(ratings) != len(types):
        raise ValueError(f"MMHal needs one type and a rating an answer, got {len(types)} types, {len(ratings)} ratings")
    found = tally(ratings).report()
    wanted = ("score", "score_interval", "hallucination_rate", "hallucination_rate_interval")
    by_type = {name: row["score"] for name, row in _by_type(ratings, types).items()}
    return {name: found[name] for name in wanted} | {"by_type": by_type}


def _by_type(ratings: Sequence[int | None], types: Sequence[str]) -> dict[str, dict[str, float | int]]:
    groups: dict[str, list[int | None]] = {}
    for rating, name in zip(ratings, types, strict=True):
        groups.setdefault(name, []).append(rating)
    return {name: tally(group).values() | {"answers": len(group)} for name, group in groups.items()}


def score_judgements(
    questions: Sequence[Question], answers: Sequence[str], judgements: Sequence[str], mode: Mode = "official"
) -> Scored:
    """The benchmark's figures.

    Args:
        questions: From :func:`read_questions`.
        answers: In their order.
        judgements: What the judge said of each.
        mode: Whose rule reads the judgements.

    Returns:
        The figures of :func:`tally`, and those of every type. ``unparsed`` counts the judgements without a rating: 0 in
        the official mode, left out in the robust one.

    Raises:
        ValueError: The lists differ in length.
    """
    said = [parse(judgement, mode) for judgement in judgements]
    ratings = [0 if rating is None and mode == "official" else rating for rating in said]
    found = tally(ratings, [one.image for one in questions])
    return Scored(
        metrics=found.values(),
        per_sample=[
            {
                "id": one.id,
                "type": one.type,
                "image": one.image,
                "question": one.text,
                "answer": answer,
                "rating": rating,
                "judgement": judgement,
                "fault": 0.0 if rating is None else max(0.0, 3.0 - rating),
            }
            for one, answer, rating, judgement in zip(questions, answers, ratings, judgements, strict=True)
        ],
        empty=count_empty(answers),
        unparsed=said.count(None),
        tally=found,
        tables={"by type": _by_type(ratings, [one.type for one in questions])},
        remarks=_remarks(len(questions), said.count(None), mode),
    )


def _remarks(questions: int, unparsed: int, mode: Mode) -> tuple[str, ...]:
    counted = "are rated 0, as in the script" if mode == "official" else "are left out"
    return (
        *([f"{questions} questions, the benchmark has {QUESTIONS}"] if questions != QUESTIONS else []),
        *([f"{unparsed} judgements without one clear rating {counted}"] if unparsed else []),
    )
