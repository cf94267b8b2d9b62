"""A benchmark's result as a file: metrics, the variant they are of, and what is needed to trust them."""

import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import orjson

from vlm_jax.evals.statistics.tally import Scored, compare
from vlm_jax.files import write_json, write_lines
from vlm_jax.versions import versions


def result_of(
    benchmark: str,
    mode: str,
    scored: Scored,
    made: Mapping[str, Any],
    against: Scored | None = None,
    remedy: str = "",
) -> dict[str, Any]:
    """``metrics``, ``mode``, ``n``, ``unparsed`` and ``versions``; ``intervals`` (95 %, bootstrap; rounded outward
    where the metrics are rounded), ``tables``, ``baselines`` and ``remarks`` where there are any; ``made``, from what;
    ``judge`` where one judged; ``comparison`` with another model's answers. ``remedy`` is what would help where most
    answers could not be read.

    Raises:
        InputError: The other answers are to other questions.
    """
    found = {
        "benchmark": benchmark,
        "mode": mode,
        "metrics": scored.metrics,
        "intervals": _intervals(scored),
        "decimals": dict(scored.decimals),
        "n": len(scored.per_sample),
        "unparsed": scored.unparsed,
        "tables": scored.tables,
        "baselines": scored.baselines,
        "remarks": [*_warnings(scored, remedy), *scored.remarks],
        "made": made,
        "versions": versions(),
    }
    if scored.judge:
        found["judge"] = scored.judge
    if against is not None:
        found["comparison"] = compare(against.tally, scored.tally)
    return found


def _intervals(scored: Scored) -> dict[str, tuple[float, float]]:
    """None of a single image, from which nothing can be said of others."""
    if len(scored.tally.units) < 2:
        return {}
    return {name: _outward(ends, scored.decimals.get(name)) for name, ends in scored.tally.intervals().items()}


_HAIR = 1e-6


def _outward(ends: tuple[float, float], decimals: int | None) -> tuple[float, float]:
    """So that a rounded figure lies inside."""
    if decimals is None:
        return ends
    low, high = (end * 10**decimals for end in ends)
    # A hair beside a whole number is that number.
    return math.floor(low + _HAIR) / 10**decimals, math.ceil(high - _HAIR) / 10**decimals


def _warnings(scored: Scored, remedy: str) -> Iterator[str]:
    answers = scored.asked or len(scored.per_sample)
    if scored.empty > answers / 2:
        yield f"{scored.empty} OF {answers} ANSWERS ARE EMPTY: the figures are those of a model that says nothing"
    elif scored.empty:
        yield f"{scored.empty} of {answers} answers are empty"
    if scored.unparsed > answers / 2:
        said = "MOST ANSWERS COULD NOT BE READ: the figures say little of the model"
        yield f"{said}; {remedy}" if remedy else said


def write_result(path: Path, result: Mapping[str, Any], per_sample: Iterable[dict[str, Any]]) -> None:
    """The result, and a row a sample in ``NAME.samples.jsonl`` beside it."""
    lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in per_sample)
    write_lines(path.with_suffix(".samples.jsonl"), lines)
    write_json(path, result)
