"""Whether our steps are faster than torch's, in as little memory, and compute the same."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims import Claim, Summary, Wanted, versions_of
from experiments.speed import gpu_readme
from experiments.speed.cpu import LIMITS
from experiments.speed.readme import load, ratio, title
from vlm_jax.files import read_json

# How many times as fast as torch each workload was to be.
_FASTER = {"sft": 1.2, "lora": 1.2, "reward": 1.2}
# Those that decode: by shape, of small ones and of larger.
_FASTER_SMALL, _FASTER_MID = 3.0, 2.0
# Where the peak was to be no higher than torch's.
_TRAINING = ("sft", "lora", "reward", "ppo")
_RESAMPLES = 1000


def summary(folder: Path) -> Summary:
    runs = load(folder, "main")
    claims = [claim for name, one in runs.items() for claim in _of(name, one)] + gpu_readme.claims(
        gpu_readme.results(folder)
    )
    return Summary(claims, versions_of([read_json(folder / "results" / "cpu.json")]))


def _of(name: str, one: Mapping[str, Any]) -> list[Claim]:
    called, source = f"{one['model']}: {title(one)}", f"results/cpu.json: runs.{name}"
    seconds = [one[side]["seconds"] for side in ("ours", "torch")]
    faster = Wanted(
        "value", at_least=_FASTER.get(one["workload"], _FASTER_MID if one["model"] == "mid" else _FASTER_SMALL)
    )
    found = [
        Claim(f"{called}, times as fast as torch, 2 cores", source, ratio(one), *_interval(*seconds), faster, None)
    ]
    if one["workload"] in _TRAINING:
        peaks, once = one["ours"]["gib"]["peak"] / one["torch"]["gib"]["peak"], (None, "measured once")
        label = f"{called}, peak memory by torch's"
        found.append(Claim(label, source, peaks, *once, Wanted("value", at_most=1.0), None))
    largest, computed = max(one["differences"].values()), (None, "computed once")
    what = "share of tokens that differ from torch's" if one["workload"] == "greedy" else "largest difference to torch"
    same = Wanted("value", at_most=LIMITS[one["workload"]])
    found.append(Claim(f"{called}, {what}", f"{source}.differences", largest, *computed, same, None))
    return found


def _interval(ours: Sequence[float], torch: Sequence[float]) -> tuple[tuple[float, float] | None, str]:
    """Of the ratio of medians, when rounds (one repetition of each side) are drawn anew; 95 %."""
    rounds = len(ours)
    if rounds == 1:
        return None, "one round"
    drawn = np.random.default_rng(0).integers(0, rounds, (_RESAMPLES, rounds))
    ratios = np.median(np.array(torch)[drawn], 1) / np.median(np.array(ours)[drawn], 1)
    middle = float(np.median(torch) / np.median(ours))
    low, high = np.percentile(ratios, (2.5, 97.5))
    return (min(float(low), middle), max(float(high), middle)), "rounds"
