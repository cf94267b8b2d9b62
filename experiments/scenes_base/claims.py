"""What the tiny model was to be like, from its scores."""

from pathlib import Path

from experiments.claims import Claim, Summary, Wanted, versions_of
from vlm_jax.files import read_json

# A model that hallucinates enough to be cured of it, and that can see.
_CHAIR_I, _POPE = 8, 85


def summary(folder: Path) -> Summary:
    results = read_json(folder / "results" / "results.json")
    claims = []
    for split, scores in results["scores"].items():
        goals = {
            f"CHAIR_i, %, {split} scenes, after the planted causes were raised for it": (
                scores["chair"],
                "chair_i",
                _CHAIR_I,
            ),
            f"POPE random accuracy, %, {split} scenes": (scores["pope"]["random"], "accuracy", _POPE),
        }
        for name, (found, measure, least) in goals.items():
            low, high = (100 * end for end in found[f"{measure}_interval"])
            claims.append(
                Claim(
                    name=name,
                    source=f"results/results.json: scores.{split}",
                    value=100 * found[measure],
                    interval=(low, high),
                    interval_over="images",
                    wanted=Wanted("interval", at_least=least),
                    seeds=1,
                )
            )
    return Summary(claims, versions_of([results]))
