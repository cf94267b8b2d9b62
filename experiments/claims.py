"""The ledger of claims: what every study wanted to see, what it saw, and whether that held; refuted ones stay in it.

    python -m experiments.claims

Each study's module ``claims`` makes its ``results/summary.json`` from its results files; README.md beside this file is
one table of all of them. A study that is run again does the same for itself.
"""

import dataclasses
import importlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from experiments.generated import replace_between
from experiments.seeds import half_width
from vlm_jax.files import read_json, write_json
from vlm_jax.versions import PACKAGES

_HERE = Path(__file__).parent
_BOUNDS = {"at_least": "at least", "at_most": "at most", "above": "above", "below": "below", "equals": "equal to"}


@dataclasses.dataclass(frozen=True)
class Wanted:
    """Bounds that were set; all of them have to be kept.

    Attributes:
        by: By the ``value`` alone, or by the whole ``interval``.
    """

    by: Literal["value", "interval"]
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    below: float | None = None
    equals: float | None = None

    def bounds(self) -> dict[str, float]:
        return {name: bound for name in _BOUNDS if (bound := getattr(self, name)) is not None}

    def kept_by(self, low: float, high: float) -> bool:
        """Whether everything from low to high keeps the bounds."""
        kept = {
            "at_least": lambda bound: low >= bound,
            "at_most": lambda bound: high <= bound,
            "above": lambda bound: low > bound,
            "below": lambda bound: high < bound,
            "equals": lambda bound: low == high == bound,
        }
        return all(kept[name](bound) for name, bound in self.bounds().items())

    def __str__(self) -> str:
        bounds = " and ".join(f"{_BOUNDS[name]} {_written(bound)}" for name, bound in self.bounds().items())
        return f"{bounds}, whole interval" if self.by == "interval" else bounds


@dataclasses.dataclass(frozen=True)
class Claim:
    """One figure and what was wanted of it.

    Attributes:
        name: What it is a figure of, with its unit.
        source: Where in the study's folder it comes from.
        value: As measured, or the mean over seeds.
        interval: Of 95 %; None where there is none.
        interval_over: What was drawn anew for it, ``seeds`` say; without one, why there is none.
        wanted: Of the value or of the interval.
        seeds: How many independent runs it rests on; None where nothing was drawn.

    Raises:
        ValueError: The interval does not hold the value, is missing where it is asked for, or nothing is wanted.
    """

    name: str
    source: str
    value: float
    interval: tuple[float, float] | None
    interval_over: str
    wanted: Wanted
    seeds: int | None

    def __post_init__(self) -> None:
        low, high = self.interval or (self.value, self.value)
        if not (math.isfinite(low) and math.isfinite(high) and low <= self.value <= high):
            raise ValueError(f"{self.name}: {self.value} does not lie in {self.interval}")
        if self.wanted.by == "interval" and self.interval is None:
            raise ValueError(f"{self.name}: there is no interval that could be {self.wanted}")
        if not self.wanted.bounds():
            raise ValueError(f"{self.name}: nothing is wanted")
        if not (self.name and self.source and self.interval_over):
            raise ValueError(f"{self.name}: name, source and what the interval is over are told of every claim")

    @property
    def held(self) -> bool:
        by_interval = self.wanted.by == "interval" and self.interval is not None
        return self.wanted.kept_by(*(self.interval if by_interval else (self.value, self.value)))

    def as_json(self) -> dict[str, Any]:
        wanted = {**self.wanted.bounds(), "by": self.wanted.by}
        return dataclasses.asdict(self) | {"wanted": wanted, "held": self.held}


@dataclasses.dataclass(frozen=True)
class Summary:
    """What a study ends in.

    Attributes:
        claims: In the order of the table.
        versions: Of the packages that made the results; None where those do not name it.

    Raises:
        ValueError: There is no claim.
    """

    claims: Sequence[Claim]
    versions: Mapping[str, str | None]

    def __post_init__(self) -> None:
        if not self.claims:
            raise ValueError("a study without a claim")


def over_seeds(name: str, source: str, values: Sequence[float], wanted: Wanted) -> Claim:
    """The mean over seeds with its interval (Student's t)."""
    mean, half = float(np.mean(values)), half_width(values)
    interval = None if half is None else (mean - half, mean + half)
    return Claim(name, source, mean, interval, "one seed" if half is None else "seeds", wanted, len(values))


def count_of_seeds(name: str, source: str, met: Sequence[bool], wanted: int) -> Claim:
    """In how many seeds something is so, wanted in at least so many."""
    why = f"counted, of {len(met)}"
    return Claim(name, source, sum(map(bool, met)), None, why, Wanted("value", at_least=wanted), len(met))


def versions_of(results: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """Of every package that results name or would name today; several where they differ."""
    named = [{package.replace("_", "-"): version for package, version in one["versions"].items()} for one in results]
    packages = dict.fromkeys([*PACKAGES, *(package for one in named for package in one)])
    found = {package: sorted({one[package] for one in named if package in one}) for package in packages}
    return {package: ", ".join(versions) or None for package, versions in found.items()}


def read_summary(path: Path) -> Summary:
    """A ``summary.json``.

    Raises:
        ValueError: A claim is none, or what is said of its holding does not follow from its figures.
    """
    found, claims = read_json(path), []
    for row in found["claims"]:
        held, interval = row.pop("held"), row["interval"]
        row |= {"wanted": Wanted(**row["wanted"]), "interval": None if interval is None else tuple(interval)}
        claims.append(Claim(**row))
        if held is not claims[-1].held:
            raise ValueError(f"{path}: {claims[-1].name}: held is {held}, and its figures say {claims[-1].held}")
    return Summary(claims, found["versions"])


def studies() -> list[Path]:
    """The folder of every study."""
    return sorted(path.parent for path in _HERE.glob("*/results/"))


def record(study: Path) -> None:
    """A study's ``summary.json`` from its results, and the table of all studies anew."""
    write_summary(study)
    write_ledger()


def write_summary(study: Path) -> None:
    summary = importlib.import_module(f"experiments.{study.name}.claims").summary(study)
    found = {"claims": [claim.as_json() for claim in summary.claims], "versions": summary.versions}
    write_json(study / "results" / "summary.json", found)


def write_ledger() -> None:
    summaries = {study.name: read_summary(study / "results" / "summary.json") for study in studies()}
    replace_between(_HERE / "README.md", "claims", table(summaries))


def table(summaries: Mapping[str, Summary]) -> str:
    lines = [
        "| study | claim | value | wanted | held | seeds | from |",
        "|---|---|---|---|---|---:|---|",
    ]
    for study, summary in summaries.items():
        for claim in summary.claims:
            seeds = "-" if claim.seeds is None else str(claim.seeds)
            cells = [f"[{study}]({study})", claim.name, _value(claim), str(claim.wanted)]
            cells += ["yes" if claim.held else "**no**", seeds, f"`{claim.source}`"]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _value(claim: Claim) -> str:
    if claim.interval is None:
        return f"{_written(claim.value)} (no interval: {claim.interval_over})"
    low, high = claim.interval
    return f"{_written(claim.value)} [{_written(low)}, {_written(high)}] over {claim.interval_over}"


def _written(value: float) -> str:
    """Counts and goals as they are, what was measured with three digits."""
    return str(value) if isinstance(value, int) else f"{value:#.3g}".rstrip(".")


def main() -> None:
    for study in studies():
        write_summary(study)
    write_ledger()


if __name__ == "__main__":
    main()
