"""A benchmark's result as a file: metrics, the variant they are of, and what is needed to trust them."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import orjson

from vlm_jax.evals.tally import Scored, compare
from vlm_jax.files import write_json, write_lines
from vlm_jax.versions import versions


def result_of(benchmark: str, mode: str, scored: Scored, against: Scored | None = None) -> dict[str, Any]:
    """``metrics``, ``mode``, ``n``, ``unparsed`` and ``versions``; ``intervals`` (95 %, bootstrap), ``tables``,
    ``baselines`` and ``remarks`` where there are any; ``judge`` where one judged; ``comparison`` with another model's
    answers.

    Raises:
        InputError: The other answers are to other questions.
    """
    found = {
        "benchmark": benchmark,
        "mode": mode,
        "metrics": scored.metrics,
        "intervals": scored.tally.intervals(),
        "n": len(scored.per_sample),
        "unparsed": scored.unparsed,
        "tables": scored.tables,
        "baselines": scored.baselines,
        "remarks": list(scored.remarks),
        "versions": versions(),
    }
    if scored.judge:
        found["judge"] = scored.judge
    if against is not None:
        found["comparison"] = compare(against.tally, scored.tally)
    return found


def write_result(path: Path, result: Mapping[str, Any], per_sample: Iterable[dict[str, Any]]) -> None:
    """The result, and a row a sample in ``NAME.samples.jsonl`` beside it."""
    lines = (orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in per_sample)
    write_lines(path.with_suffix(".samples.jsonl"), lines)
    write_json(path, result)
