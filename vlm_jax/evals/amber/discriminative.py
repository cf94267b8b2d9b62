"""AMBER's yes/no questions (Wang et al. 2023): existence (the answer is always no), attributes (state, number and
action) and relations. No is positive.

    official     AMBER's ``inference.py``: "Yes" or "No" to the letter; anything else is wrong, and no no
    first-word   the first word of an answer, capitalised, then the same: what models need that say "No, there is not."

Figures are in percent. As in the script every denominator starts at 0.001 and precision and recall are rounded to one
decimal before F1 is made of them; intervals and comparisons are of the figures before rounding.
"""

import re
from collections.abc import Iterable, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from vlm_jax.evals.statistics.bootstrap import Statistic

Mode = Literal["official", "first-word"]
MODES: tuple[Mode, ...] = get_args(Mode)

# What the annotations call a question -> its kind.
KINDS = {
    "discriminative-attribute-state": "state",
    "discriminative-attribute-number": "number",
    "discriminative-attribute-action": "action",
    "discriminative-hallucination": "existence",
    "discriminative-relation": "relation",
    "relation": "relation",
}
_ORDER = ("state", "number", "action", "existence", "relation")
_ATTRIBUTE = ("state", "number", "action")
# Reported group -> the kinds in it, its denominators' start, what is added below F1's fraction bar.
_GROUPS: dict[str, tuple[Sequence[str], float, float]] = {
    "all": (_ORDER, 0.001, 1e-4),
    "existence": (("existence",), 0.001, 1e-3),
    # Three counters are added up, each with a start of its own.
    "attribute": (_ATTRIBUTE, 0.003, 1e-4),
    **{kind: ((kind,), 0.001, 1e-4) for kind in (*_ATTRIBUTE, "relation")},
}
FIGURES = ("accuracy", "precision", "recall", "f1")
# What is counted of each kind: questions, right answers, questions whose answer is no, answers of no, right ones.
_QUESTIONS, _RIGHT, _NO, _SAID_NO, _HITS = range(5)
COLUMNS = 5 * len(_ORDER)

_WORD = re.compile(r"[^\W\d_]+")


def parse(answer: str, mode: Mode = "official") -> str | None:
    """yes or no; None where the rule reads neither."""
    if mode == "first-word":
        first = _WORD.search(answer)
        answer = first[0].capitalize() if first else ""
    return {"Yes": "yes", "No": "no"}.get(answer)


def counts(kinds: Sequence[str], labels: Sequence[str], said: Sequence[str | None]) -> Float[np.ndarray, "n 25"]:
    """What each question adds to the sums of its kind.

    Args:
        kinds: state, number, action, existence or relation.
        labels: yes or no.
        said: From :func:`parse`.
    """
    rows = np.zeros((len(kinds), len(_ORDER), 5))
    for row, kind, label, word in zip(rows, kinds, labels, said, strict=True):
        row[_ORDER.index(kind)] = 1, word == label, label == "no", word == "no", word == label == "no"
    return rows.reshape(-1, COLUMNS)


def groups_of(kinds: Iterable[str]) -> list[str]:
    """The groups that are reported when there are questions of these kinds; the total needs all kinds, as there."""
    there = set(kinds)
    return [group for group, (needed, *_) in _GROUPS.items() if there.issuperset(needed)]


def statistics(group: str, first: int = 0) -> dict[str, Statistic]:
    """Accuracy, precision, recall and F1 of a group before rounding, of many rows of sums, in which those of
    :func:`counts` begin at column ``first``."""
    kinds, start, below = _GROUPS[group]

    def summed(sums: Float[np.ndarray, "r k"], place: int) -> Float[np.ndarray, " r"]:
        return sums[:, [first + 5 * _ORDER.index(kind) + place for kind in kinds]].sum(1)

    def percent(top: int, bottom: int) -> Statistic:
        return lambda sums: summed(sums, top) / (summed(sums, bottom) + start) * 100

    precision, recall = percent(_HITS, _SAID_NO), percent(_HITS, _NO)

    def f1(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        return _f1(precision(sums), recall(sums), below)

    return dict(zip(FIGURES, (percent(_RIGHT, _QUESTIONS), precision, recall, f1), strict=True))


def _f1(precision: Any, recall: Any, below: float) -> Any:
    p, r = precision / 100, recall / 100
    return 2 * p * r / (p + r + below) * 100


def reported(sums: Float[np.ndarray, " 25"], group: str) -> dict[str, float]:
    """Accuracy, precision, recall and F1 of a group as the script prints them."""
    found = {name: round(float(statistic(sums[None])[0]), 1) for name, statistic in statistics(group).items()}
    return {**found, "f1": round(_f1(found["precision"], found["recall"], _GROUPS[group][2]), 1)}


def table(sums: Float[np.ndarray, " 25"], kinds: Iterable[str]) -> dict[str, dict[str, float | int]]:
    """Group -> figures as reported, and the number of questions, for the groups that questions of these kinds make."""
    questions = dict(zip(_ORDER, sums.reshape(len(_ORDER), 5)[:, _QUESTIONS].astype(int).tolist(), strict=True))
    return {
        group: {**reported(sums, group), "questions": sum(questions[kind] for kind in _GROUPS[group][0])}
        for group in groups_of(kinds)
    }
