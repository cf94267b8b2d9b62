"""Whether scoring takes no longer than it may."""

from pathlib import Path

from experiments.claims import Claim, Summary, Wanted, versions_of
from vlm_jax.files import read_json

# Scorer and rows -> seconds on one core.
_LIMITS = {("CHAIR", 100_000): 60, ("POPE", 1_000_000): 20}


def summary(folder: Path) -> Summary:
    results = read_json(folder / "results" / "results.json")
    claims = [
        Claim(
            name=f"seconds of {one['scorer']} over {one['rows']:,} rows, one core",
            source="results/results.json: runs",
            value=one["seconds"],
            interval=None,
            interval_over="measured once",
            wanted=Wanted("value", at_most=_LIMITS[one["scorer"], one["rows"]]),
            seeds=1,
        )
        for one in results["runs"]
        if (one["scorer"], one["rows"]) in _LIMITS
    ]
    return Summary(claims, versions_of([results]))
