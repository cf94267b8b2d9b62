"""LLaVA-Bench (Liu et al. 2023): a judge scores GPT-4's answer, written from captions and boxes, and the model's, from
1 to 10 each. COCO: 30 images, 90 questions; in the wild: 24 images, 60 questions.

official    LLaVA's ``eval_gpt_review_*.py`` and ``summarize_gpt_review.py``: the first line is two numbers with one
            space or comma between them; a judgement that reads otherwise counts as -1 to -1
robust      two scores in whatever dress ("8, 7", "Assistant 1: 8/10 ..."); a judgement without them is left out
"""

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
from jaxtyping import Float

from vlm_jax.data.rows import Row, iter_rows
from vlm_jax.evals.answering.answer_files import row_id
from vlm_jax.evals.judges.interface import JudgeRequest
from vlm_jax.evals.llava_bench.rules import SYSTEM, Rule, rule_for
from vlm_jax.evals.statistics.bootstrap import Statistic
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty, unit_counts

Mode = Literal["official", "robust"]
MODES: tuple[Mode, ...] = get_args(Mode)
Pair = tuple[float, float]

_TEMPERATURE, _MAX_TOKENS = 0.2, 1024  # As in the scripts.
_UNREAD = (-1.0, -1.0)
_LOWEST, _HIGHEST = 0, 10
_TOTAL = "all"


class Question(NamedTuple):
    id: str
    image: str
    text: str
    category: str


class Context(NamedTuple):
    """What stands for the image; ``in_the_wild`` where it is a description and not COCO's captions and boxes."""

    text: str
    in_the_wild: bool


def read_questions(path: Path) -> list[Question]:
    """``qa90_questions.jsonl`` or in-the-wild's ``questions.jsonl``.

    Raises:
        InputError: A row lacks a key, or an id comes twice.
    """
    found: dict[str, Question] = {}
    for row in iter_rows(path):
        image, text, category = (row.string(key) for key in ("image", "text", "category"))
        question = Question(row_id(row, "question_id"), image, text, category)
        if category == _TOTAL:
            raise row.wrong(f"category {category!r}", "another name: that is what the sum over all is called")
        if question.id in found:
            raise row.wrong(f"question_id {question.id} for the second time", "ids that differ")
        found[question.id] = question
    return list(found.values())


def read_contexts(path: Path) -> dict[str, Context]:
    """Image -> context, from ``caps_boxes_coco2014_val_80.jsonl`` or in-the-wild's ``context.jsonl``.

    Raises:
        InputError: A row is neither.
    """
    found = {}
    for row in iter_rows(path):
        image = row.string("image")
        if "captions" in row.values:
            captions = "\n".join(_texts(row, "captions"))
            found[image] = Context(f"{captions}\n\n{_boxes(row)}", in_the_wild=False)
        else:
            found[image] = Context("\n".join(_texts(row, "caption")), in_the_wild=True)
    return found


def _texts(row: Row, key: str) -> list[str]:
    value = row.require(key)
    return [row.text(one, key) for one in (value if isinstance(value, list) else [value])]


def _boxes(row: Row) -> str:
    instances = row.require("instances")
    if not isinstance(instances, list) or not all(isinstance(one, dict) and one.keys() >= _BOX for one in instances):
        raise row.wrong("instances of another layout", '[{"category": ..., "bbox": [...]}, ...]')
    return "\n".join(f"{one['category']}: {one['bbox']}" for one in instances)


_BOX = {"category", "bbox"}


def requests(
    questions: Sequence[Question],
    references: Sequence[str],
    answers: Sequence[str],
    contexts: Mapping[str, Context],
    rules: Mapping[str, Rule],
) -> list[JudgeRequest]:
    """What a judge is asked about each pair of answers, laid out as in the scripts.

    Args:
        questions: From :func:`read_questions`.
        references: GPT-4's answers, in their order.
        answers: The model's, in the same order.
        contexts: From :func:`read_contexts`; an image may be missing where no judge reads its prompt.
        rules: From ``llava_bench_rules.read_rules``.

    Raises:
        InputError: There is no rule for a category.
    """
    return [
        JudgeRequest(
            id=question.id,
            system=SYSTEM,
            user=_prompt(question, reference, answer, contexts.get(question.image, Context("", False)), rules),
            temperature=_TEMPERATURE,
            max_tokens=_MAX_TOKENS,
            answer=answer,
        )
        for question, reference, answer in zip(questions, references, answers, strict=True)
    ]


def _prompt(question: Question, reference: str, answer: str, context: Context, rules: Mapping[str, Rule]) -> str:
    rule = rule_for(rules, question.category, context.in_the_wild)
    shown = [f"[Context]\n{context.text}\n\n[Question]\n{question.text}\n\n"]
    for number, text in enumerate((reference, answer), 1):
        shown.append(f"[{rule.role} {number}]\n{text}\n\n[End of {rule.role} {number}]\n\n")
    return f"{''.join(shown)}[System]\n{rule.prompt}\n\n"


def parse(judgement: str, mode: Mode = "official") -> Pair | None:
    """The scores of the reference and of the model; None where the rule finds none."""
    return _official(judgement) if mode == "official" else _robust(judgement)


def _official(judgement: str) -> Pair | None:
    parts = judgement.split("\n")[0].replace(",", " ").split(" ")
    try:
        first, second = map(float, parts)
    except ValueError:
        return None
    # The script takes "nan" and "inf" for scores; no judge means them.
    return (first, second) if math.isfinite(first + second) else None


_NUMBER = re.compile(r"(?<![\d.-])\d+(?:\.\d+)?(?!\d|\.\d)")
_OF_TEN = re.compile(r"(?:/|\bout of)\s*10\b", re.IGNORECASE)
_NAME = r"\b(?:assistant|answer|response|model)\s*(?:#\s*)?"
_NAMES = re.compile(rf"{_NAME}[12]\b(?:\s*(?:and|&)\s*2\b)?", re.IGNORECASE)
_WORDS = re.compile(r"\b(?:scores?|ratings?|and|are|is|the|for|of|overall|respectively)\b", re.IGNORECASE)
_NAMED_SCORE = re.compile(
    rf"{_NAME}([12])\b(?:'s)?[\W_]*(?:(?:overall\s+)?(?:score|rating)[\W_]*(?:is\b[\W_]*)?)?({_NUMBER.pattern})",
    re.IGNORECASE,
)


def _robust(judgement: str) -> Pair | None:
    text = _OF_TEN.sub("", judgement)
    lines = [line for line in text.splitlines() if line.strip()]
    # One pair in a line of its own, wherever it stands; then scores by name; then two lines of a number each.
    pairs = {tuple(map(float, numbers)) for line in lines if len(numbers := _bare_numbers(line)) == 2}
    if not pairs:
        named = [(int(who), float(number)) for who, number in _NAMED_SCORE.findall(text)]
        pairs = {(one, two) for who, one in named if who == 1 for other, two in named if other == 2}
    if not pairs and len(lines) > 1:
        numbers = [*_bare_numbers(lines[0]), *_bare_numbers(lines[1])]
        pairs = {tuple(map(float, numbers))} if len(numbers) == 2 else set()
    found = pairs.pop() if len(pairs) == 1 else _UNREAD
    return found if all(_LOWEST <= one <= _HIGHEST for one in found) else None


def _bare_numbers(line: str) -> list[str]:
    """The numbers of a line that says nothing else; none of a line of prose."""
    left = _WORDS.sub("", _NAMES.sub("", line))
    return [] if any(map(str.isalpha, left)) else _NUMBER.findall(left)


# What an image's questions of one category add: answers, the sums of both scores, and the same of judgements that were
# read.
_COLUMNS = 6
_ALL, _READ = slice(0, 3), slice(3, 6)


def tally(pairs: Sequence[Pair | None], questions: Sequence[Question], mode: Mode = "official") -> Tally:
    """``relative_score`` (percent), also of each category as ``relative_score_CATEGORY`` and without unread judgements
    as ``relative_score_read``; ``reference_score`` and ``model_score``, means times 10. Nothing is rounded; a ratio
    without a denominator is 0.

    Args:
        pairs: From :func:`parse`.
        questions: In their order.
        mode: Whether a judgement that was not read counts as -1 to -1 or not at all.
    """
    categories = sorted({one.category for one in questions})
    rows = np.zeros((len(pairs), len(categories), _COLUMNS))
    for row, pair, question in zip(rows, pairs, questions, strict=True):
        place = categories.index(question.category)
        if pair is not None:
            row[place] = (1, *pair) * 2
        elif mode == "official":
            row[place, _ALL] = 1, *_UNREAD
    figures = {
        "relative_score": _relative(_ALL),
        **{f"relative_score_{name}": _relative(_ALL, place) for place, name in enumerate(categories)},
        "reference_score": _mean(1),
        "model_score": _mean(2),
        "relative_score_read": _relative(_READ),
    }
    return Tally(*unit_counts([one.image for one in questions], rows.reshape(len(rows), -1)), figures)


def _relative(columns: slice, category: int | None = None) -> Statistic:
    def relative(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        _, reference, model = _columns(sums, category)[:, columns].T
        # Below 0 where nothing was read, which the script divides like any other mean.
        return 100 * np.divide(model, reference, out=np.zeros_like(model), where=reference != 0)

    return relative


def _mean(column: int) -> Statistic:
    def mean(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        each = _columns(sums)
        return 10 * each[:, column] / np.maximum(each[:, 0], 1)

    return mean


def _columns(sums: Float[np.ndarray, "r k"], category: int | None = None) -> Float[np.ndarray, "r 6"]:
    each = sums.reshape(len(sums), -1, _COLUMNS)
    return each.sum(1) if category is None else each[:, category]


def score(
    questions: Sequence[Question],
    answers: Sequence[str],
    judgements: Sequence[str],
    mode: Mode = "official",
) -> Scored:
    """The benchmark's figures.

    Args:
        questions: From :func:`read_questions`.
        answers: The model's, in their order.
        judgements: What the judge said of each pair.
        mode: Whose rule reads the judgements.

    Returns:
        The figures of :func:`tally`, rounded as the script rounds (means to three decimals, then everything to one),
        and a table by category. ``unparsed`` counts the judgements that were not read.

    Raises:
        ValueError: The lists differ in length.
    """
    pairs = [parse(judgement, mode) for judgement in judgements]
    found, groups = tally(pairs, questions, mode), {_TOTAL: pairs}
    for question, pair in zip(questions, pairs, strict=True):
        groups.setdefault(question.category, []).append(pair)
    table = {name: _row(groups[name], mode) for name in sorted(groups)}
    overall = table[_TOTAL]
    return Scored(
        metrics={
            "relative_score": overall["relative"],
            **{f"relative_score_{name}": row["relative"] for name, row in table.items() if name != _TOTAL},
            "reference_score": overall["reference"],
            "model_score": overall["model"],
            "relative_score_read": overall["relative, read only"],
        },
        per_sample=[_sample(*one) for one in zip(questions, answers, pairs, judgements, strict=True)],
        empty=count_empty(answers),
        unparsed=pairs.count(None),
        tally=found,
        tables={"by category": table},
        remarks=_remarks(table, mode),
        decimals=dict.fromkeys((*found.figures, *overall), 1),
    )


def _row(pairs: Sequence[Pair | None], mode: Mode) -> dict[str, float | int]:
    read = [pair for pair in pairs if pair is not None]
    counted = [pair or _UNREAD for pair in pairs] if mode == "official" else read
    relative, reference, model = _rounded(counted)
    return {
        "relative": relative,
        "reference": reference,
        "model": model,
        "relative, read only": _rounded(read)[0],
        "judgements": len(pairs),
        "unread": len(pairs) - len(read),
    }


def _rounded(pairs: Sequence[Pair]) -> tuple[float, float, float]:
    """Relative score and both means times 10, as ``summarize_gpt_review.py`` has them."""
    if not pairs:
        return 0.0, 0.0, 0.0
    reference, model = (round(mean, 3) for mean in np.asarray(pairs).mean(0).tolist())
    return round(model / reference * 100, 1) if reference else 0.0, round(reference * 10, 1), round(model * 10, 1)


def _sample(question: Question, answer: str, pair: Pair | None, judgement: str) -> dict[str, Any]:
    reference, model = pair or (None, None)
    return {
        "id": question.id,
        "image": question.image,
        "question": question.text,
        "category": question.category,
        "answer": answer,
        "reference_score": reference,
        "model_score": model,
        "judgement": judgement,
        "fault": max(0.0, float(reference - model)) if pair else 0.0,
    }


def _remarks(table: Mapping[str, Mapping[str, float | int]], mode: Mode) -> tuple[str, ...]:
    counted = "count as -1 to -1, as in the script" if mode == "official" else "are left out"
    unread = table[_TOTAL]["unread"]
    remarks = [f"{unread} judgements without two scores {counted}"] if unread else []
    if nothing := [name for name, row in table.items() if row["unread"] == row["judgements"]]:
        remarks.append(f"no judgement was read of {', '.join(nothing)}: figures there say nothing")
    return tuple(remarks)
