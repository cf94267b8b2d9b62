"""Whether the rates tell a planted taste for length, seed by seed and over seeds."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from experiments.claims import Claim, Summary, Wanted, count_of_seeds, over_seeds, versions_of
from experiments.judge_bias.readme import load

_PAIRS = {"made": "pairs by rule", "sampled": "sampled pairs"}
# What the biased arm has to do against the clean one: be moved more, toward the longer answer, and be wrong more often.
_APART = {
    "rr_verbosity": ("RR against verbosity", -1),
    "toward_verbosity": ("share moved toward the longer answer", 1),
    "accuracy_verbosity": ("accuracy with the worse answer lengthened", -1),
}
_EXACT = {"cr": "CR", "rr_position": "position RR"}
_P = 0.05


def summary(folder: Path) -> Summary:
    found = {name: load(folder, name) for name in _PAIRS}
    claims = [claim for name, results in found.items() for claim in _of(name, results)]
    return Summary(claims, versions_of([one for results in found.values() for one in results]))


def _of(name: str, results: Sequence[Mapping]) -> list[Claim]:
    source, pairs, claims = f"results/{name}_seed_*.json", _PAIRS[name], []
    for measure, (label, sign) in _APART.items():
        rows = [one["comparison"][measure] for one in results]
        differences = [row["difference"] for row in rows]
        wanted = Wanted("interval", **({"above": 0} if sign > 0 else {"below": 0}))
        difference = f"{pairs}: {label}, taste for length minus clean"
        claims.append(over_seeds(difference, f"{source}: comparison.{measure}", differences, wanted))
        apart = [row["p_value"] < _P and sign * row["difference"] > 0 for row in rows]
        seeds = f"{pairs}: seeds in which that difference of {label} has p < {_P}"
        claims.append(count_of_seeds(seeds, f"{source}: comparison.{measure}", apart, len(rows)))
    for measure, label in _EXACT.items():
        rates = [one["comparison"][measure][arm] for one in results for arm in ("before", "after")]
        exact = Claim(
            name=f"{pairs}: smallest {label} of both arms",
            source=f"{source}: comparison.{measure}",
            value=min(rates),
            interval=None,
            interval_over=f"the smallest of {len(rates)}",
            wanted=Wanted("value", equals=1),
            seeds=len(results),
        )
        claims.append(exact)
    return claims
