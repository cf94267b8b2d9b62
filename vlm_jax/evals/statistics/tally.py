"""What every scorer returns: exact figures, what was decided about each sample, and the sums behind the figures, from
which intervals and paired tests follow."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_jax.errors import InputError
from vlm_jax.evals.statistics.bootstrap import Statistic, interval_of, resampled, swap_p_value


@dataclasses.dataclass(frozen=True)
class Tally:
    """Figures that are functions of sums over units.

    Attributes:
        units: What is drawn anew when sampling is repeated: an image with all its questions, a caption.
        counts: What each unit adds to each sum.
        figures: Name -> statistic of the sums.
    """

    units: Sequence[str]
    counts: Float[np.ndarray, "n k"]
    figures: Mapping[str, Statistic]

    def values(self) -> dict[str, float]:
        total = self.counts.sum(0)[None]
        return {name: float(statistic(total)[0]) for name, statistic in self.figures.items()}

    def intervals(self) -> dict[str, tuple[float, float]]:
        """95 % bootstrap intervals over units."""
        sums = resampled(self.counts)
        return {name: interval_of(sums, statistic) for name, statistic in self.figures.items()}

    def report(self) -> dict[str, Any]:
        """:meth:`values`, and :meth:`intervals` under ``NAME_interval``."""
        return self.values() | {f"{name}_interval": found for name, found in self.intervals().items()}


class Rows(Sequence[dict[str, Any]]):
    """Rows that are made when they are looked at: of a million samples they would take hundreds of megabytes."""

    def __init__(self, count: int, make: Callable[[int], dict[str, Any]]):
        self._count, self._make = count, make

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return map(self._make, range(self._count))

    def __getitem__(self, place: Any) -> Any:
        found = range(self._count)[place]
        return [self._make(one) for one in found] if isinstance(place, slice) else self._make(found)


@dataclasses.dataclass(frozen=True)
class Scored:
    """A benchmark's result.

    Attributes:
        metrics: The reference scorer's figures under our names.
        per_sample: A row for every sample, in the order of the annotations; ``fault`` is 0 where nothing is wrong and
            grows with what is.
        unparsed: Answers in which the rule found nothing to read, whatever it made of them.
        tally: The sums behind those metrics that have intervals.
        tables: Title -> row -> column -> figure: per type, per category.
        baselines: What constant answers would score, in ``metrics``' names.
        remarks: What a reader has to know of this variant.
        judge: Who judged, where a judge did, and what it took.
        decimals: To how many a metric (or a table's column of its name) is rounded, where the reference scorer rounds.
        asked: How many answers there were, where a sample has several.
        empty: How many of them have nothing in them.
    """

    metrics: dict[str, float | int]
    per_sample: Sequence[dict[str, Any]]
    unparsed: int
    tally: Tally
    tables: dict[str, dict[str, dict[str, float | int | str | None]]] = dataclasses.field(default_factory=dict)
    baselines: dict[str, dict[str, float | int]] = dataclasses.field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    judge: dict[str, Any] = dataclasses.field(default_factory=dict)
    decimals: Mapping[str, int] = dataclasses.field(default_factory=dict)
    asked: int | None = None
    empty: int = 0


def count_empty(answers: Iterable[str]) -> int:
    """Answers with nothing, or nothing but space, in them."""
    return sum(not answer.strip() for answer in answers)


def unit_counts(units: Iterable[str], rows: Float[np.ndarray, "m k"]) -> tuple[list[str], Float[np.ndarray, "n k"]]:
    """Sums of the rows of each unit, units in the order of their names."""
    codes: dict[str, int] = {}
    places = np.array([codes.setdefault(unit, len(codes)) for unit in units], np.int64)
    sums = np.stack([np.bincount(places, column, len(codes)) for column in rows.T], 1)
    order = sorted(codes, key=str)
    return order, sums[[codes[unit] for unit in order]] if order else np.zeros((0, rows.shape[1]))


def compare(before: Tally, after: Tally) -> dict[str, dict[str, Any]]:
    """Every figure that two systems on the same units both have: before, after, difference, its 95 % bootstrap
    interval (a unit is drawn with the answers of both) and the p-value of a paired randomisation test.

    Raises:
        InputError: The units differ.
    """
    if list(before.units) != list(after.units):
        one, two = set(before.units), set(after.units)
        found = f"answers about {len(one - two)} other images or questions, and none about {len(two - one)}"
        raise InputError(found, "two models' answers to the same questions")
    sums, width = resampled(np.concatenate([before.counts, after.counts], 1)), before.counts.shape[1]
    found = {}
    for name, statistic in before.figures.items():
        if name not in after.figures:
            continue

        def change(sums: np.ndarray, statistic: Statistic = statistic) -> np.ndarray:
            return statistic(sums[:, width:]) - statistic(sums[:, :width])

        one, two = before.values()[name], after.values()[name]
        found[name] = {
            "before": one,
            "after": two,
            "difference": two - one,
            "interval": interval_of(sums, change),
            "p_value": swap_p_value(before.counts, after.counts, statistic),
        }
    return found
