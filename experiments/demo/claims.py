"""What the demo's one run shows, from its results files."""

from pathlib import Path

from experiments.claims import Claim, Summary, Wanted, versions_of
from vlm_jax.files import read_json

_START, _PLAIN, _FACTS = "starting model", "RLHF", "Fact-RLHF"
_SOURCE = "results/scores.json"
# Points of recall that the cure may cost.
_RECALL = -3


def summary(folder: Path) -> Summary:
    scores, results = (read_json(folder / "results" / f"{name}.json") for name in ("scores", "results"))
    claims = [_below(scores, name, other) for name, other in ((_PLAIN, _START), (_FACTS, _START), (_FACTS, _PLAIN))]
    return Summary([*claims, *(_recall(scores, name) for name in (_PLAIN, _FACTS))], versions_of([results]))


def _below(scores: dict, name: str, other: str) -> Claim:
    """Whether a model's interval lies below another's, as bold figures of the README's table do."""
    low, high = (100 * end for end in scores[name]["chair"]["chair_i_interval"])
    return Claim(
        name=f"CHAIR_i of {name}, % (bound: lower end of the {other}'s)",
        source=f"{_SOURCE}: chair",
        value=100 * scores[name]["chair"]["chair_i"],
        interval=(low, high),
        interval_over="images",
        wanted=Wanted("interval", below=100 * scores[other]["chair"]["chair_i_interval"][0]),
        seeds=1,
    )


def _recall(scores: dict, name: str) -> Claim:
    change = 100 * (scores[name]["chair"]["recall"] - scores[_START]["chair"]["recall"])
    why = "one seed, counts of single images not kept"
    wanted = Wanted("value", at_least=_RECALL)
    return Claim(f"recall of {name} against the start, points", f"{_SOURCE}: chair", change, None, why, wanted, 1)
