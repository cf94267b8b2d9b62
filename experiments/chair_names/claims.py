"""How far CHAIR moves with the list of names and with the slips of its script, against what sampling moves it."""

from pathlib import Path

from experiments.claims import Claim, Summary, Wanted, versions_of
from vlm_jax.files import read_json

_FIGURES = {"chair_s": "CHAIR_s", "chair_i": "CHAIR_i", "recall": "recall"}
_REFERENCE = ("CHAIR's", "official")
_VARIANTS = {("ours", "official"): "our names", ("CHAIR's", "corrected"): "CHAIR's names, slips mended"}


def summary(folder: Path) -> Summary:
    results = read_json(folder / "results" / "results.json")
    rows = {(row["log"], row["names"], row["mode"]): row for row in results["scores"]}
    logs = dict.fromkeys(row["log"] for row in results["scores"])
    claims = [
        _inside(f"{label} of {log}, %, by {variant}", measure, rows[log, *made], rows[log, *_REFERENCE])
        for made, variant in _VARIANTS.items()
        for log in logs
        for measure, label in _FIGURES.items()
    ]
    return Summary(claims, versions_of([results]))


def _inside(name: str, measure: str, row: dict, reference: dict) -> Claim:
    """Whether a figure lies in the interval of what CHAIR's own script and names give."""
    low, high = (100 * end for end in row["intervals"][measure])
    least, most = (100 * end for end in reference["intervals"][measure])
    wanted = Wanted("value", at_least=least, at_most=most)
    source = "results/results.json: scores"
    return Claim(name, source, 100 * row[measure], (low, high), "images", wanted, None)
