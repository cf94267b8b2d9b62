"""Which figures of an evaluation a reader sees, how they are written and which of them is the best."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal


@dataclasses.dataclass(frozen=True)
class Figure:
    """A value and, where the scores hold one, its 95 % interval."""

    value: float
    interval: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Measure:
    """One row of a table; ``read`` gives None where the scores lack it."""

    key: str
    label: str
    meaning: str
    unit: Literal["percent", "rating", "words"]
    better: Literal["higher", "lower"] | None
    read: Callable[[Mapping[str, Any]], Figure | None]

    @property
    def arrow(self) -> str:
        return {"higher": "↑", "lower": "↓", None: ""}[self.better]


@dataclasses.dataclass(frozen=True)
class Row:
    """A measure over all models, in their order; ``best`` is the column that is better beyond chance (``BEST``)."""

    measure: Measure
    figures: tuple[Figure | None, ...]
    best: int | None


# What a table says of itself.
BRACKETS = "Brackets are 95 % bootstrap intervals."
BEST = "A bold value is better than all others of its row: its interval overlaps none of theirs."


def rows(models: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """Every measure that at least one model has."""
    result = []
    for measure in MEASURES:
        figures = tuple(measure.read(scores) for scores in models.values())
        if any(figures):
            result.append(Row(measure, figures, _best(measure, figures)))
    return result


def summary(scores: Mapping[str, Any]) -> dict[str, float | None]:
    """One evaluation as flat numbers; POPE's are means over its three official settings, and rates lie in 0 to 1.

    ``reward_accuracy`` is None where the scores have none.
    """
    figures = {measure.key: measure.read(scores) for measure in MEASURES if measure.key not in _PARTNER_KEYS}
    return {key: None if figure is None else figure.value for key, figure in figures.items()}


def written(measure: Measure, value: float) -> str:
    """The value with the digits that a reader gets; rates in per cent, without the sign."""
    if measure.unit == "percent":
        return f"{100 * value:.1f}"
    return f"{value:.2f}" if measure.unit == "rating" else f"{value:.1f}"


def written_interval(measure: Measure, interval: Sequence[float]) -> str:
    low, high = interval
    return f"[{written(measure, low)}, {written(measure, high)}]"


def label(measure: Measure) -> str:
    """The name with its unit and the direction that is better."""
    unit = {"percent": "%", "rating": "0-6", "words": "words"}[measure.unit]
    return f"{measure.label} ({unit}) {measure.arrow}".rstrip()


def _best(measure: Measure, figures: Sequence[Figure | None]) -> int | None:
    """Compared as written: a distance that the reader cannot see makes no winner.

    The intervals of two models may overlap although a paired one of their difference would not hold 0. Such a one can
    only be had where what was said of every image is at hand, which results files do not keep; so this asks for more.
    """
    shown = {i: figure.interval for i, figure in enumerate(figures) if figure is not None}
    if measure.better is None or len(shown) < 2 or None in shown.values():
        return None
    # Turned so that higher is better.
    sign = 1 if measure.better == "higher" else -1
    ends = {i: sorted(sign * float(written(measure, end)) for end in interval) for i, interval in shown.items()}
    best = max(ends, key=lambda i: ends[i][0])
    return best if all(ends[best][0] > high for i, (_, high) in ends.items() if i != best) else None


def _of(group: str, name: str) -> Callable[[Mapping[str, Any]], Figure | None]:
    return lambda scores: _figure(scores.get(group), name)


def _top(name: str) -> Callable[[Mapping[str, Any]], Figure | None]:
    return lambda scores: _figure(scores, name)


def _partner_pope(name: str) -> Callable[[Mapping[str, Any]], Figure | None]:
    return lambda scores: _figure(scores["pope"].get("partner"), name)


def _figure(scores: Mapping[str, Any] | None, name: str) -> Figure | None:
    if scores is None or scores.get(name) is None:
        return None
    interval = scores.get(f"{name}_interval")
    return Figure(float(scores[name]), None if interval is None else (float(interval[0]), float(interval[1])))


_PARTNER_KEYS = ("partner_f1", "partner_accuracy")
_PARTNER = "half of the questions are about the absent companion of a kind that is there"
MEASURES = (
    Measure(
        "chair_i", "CHAIR_i", "named objects that are absent; a description counts a kind once", "percent", "lower",
        _of("chair", "chair_i"),
    ),
    Measure("chair_s", "CHAIR_s", "descriptions that name an absent one", "percent", "lower", _of("chair", "chair_s")),
    Measure("recall", "Recall", "objects there that are named", "percent", "higher", _of("chair", "recall")),
    Measure(
        "pope_f1", "POPE F1", "mean of random, popular, adversarial", "percent", "higher", _of("pope_mean", "f1")
    ),
    Measure(
        "pope_accuracy", "POPE accuracy", "mean of random, popular, adversarial", "percent", "higher",
        _of("pope_mean", "accuracy"),
    ),
    Measure("partner_f1", "POPE F1, partner", _PARTNER, "percent", "higher", _partner_pope("f1")),
    Measure("partner_accuracy", "POPE accuracy, partner", _PARTNER, "percent", "higher", _partner_pope("accuracy")),
    Measure("mmhal_score", "MMHal score", "mean rating of open answers", "rating", "higher", _of("mmhal", "score")),
    Measure(
        "mmhal_hallucination_rate", "MMHal hallucination", "answers rated below 3", "percent", "lower",
        _of("mmhal", "hallucination_rate"),
    ),
    Measure("mean_length", "Mean length", "of a description", "words", None, _top("mean_length")),
    Measure(
        "reward_accuracy", "Reward accuracy", "held-out pairs whose preferred answer scores higher", "percent",
        "higher", _top("reward_accuracy"),
    ),
)  # fmt: skip
