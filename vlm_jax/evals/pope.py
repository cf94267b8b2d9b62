"""POPE (Li et al. 2023): yes/no questions about single objects, half of them absent.

Questions about one image are not independent, so intervals (95 %, bootstrap) resample images.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_jax.evals.bootstrap import interval, safe_ratio


def parse(answer: str) -> str:
    """POPE's own rule (``evaluate.py``): the first sentence, commas removed, is a no if it has the word No, not or no;
    anything else is a yes."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def confusion(answers: Sequence[str], labels: Sequence[str], images: Sequence[str]) -> Float[np.ndarray, "n 4"]:
    """True positives, false positives, false negatives and true negatives (yes is positive) of each image, images in
    the order of their names.

    Raises:
        ValueError: The lists differ in length or a label is neither yes nor no.
    """
    if not len(answers) == len(labels) == len(images) or set(labels) - {"yes", "no"}:
        raise ValueError(
            f"POPE needs one yes/no label and one image an answer, got {len(answers)} answers, {len(images)} images "
            f"and {len(labels)} labels {set(labels)}"
        )
    names, places = np.unique(np.array(images, str), return_inverse=True)
    counts = np.zeros((len(names), 4))
    for place, answer, label in zip(places, answers, labels, strict=True):
        said = parse(answer) == "yes"
        counts[place, (0 if said else 2) if label == "yes" else (1 if said else 3)] += 1
    return counts


def score(*settings: Float[np.ndarray, "n 4"]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 and the share of yes answers, from the :func:`confusion` of one setting or, as
    means over settings, of several about the same images; a ratio without a denominator is 0. Accuracy and F1 have
    intervals, for which an image is drawn with all its questions."""
    counts = np.concatenate(settings, 1)
    found: dict[str, Any] = {name: float(rate(counts.sum(0)[None])[0]) for name, rate in _RATES.items()}
    for name in ("accuracy", "f1"):
        found[f"{name}_interval"] = interval(counts, _RATES[name])
    return found


def _mean_rate(top: tuple[int, ...], bottom: tuple[int, ...], weights: tuple[int, ...] = (1, 1, 1, 1)):
    """Mean over settings of a ratio of weighted sums of the four counts."""

    def rate(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        weighted = sums.reshape(len(sums), -1, 4) * np.array(weights)
        return safe_ratio(weighted[..., top].sum(-1), weighted[..., bottom].sum(-1)).mean(1)

    return rate


_RATES = {
    "accuracy": _mean_rate((0, 3), (0, 1, 2, 3)),
    "precision": _mean_rate((0,), (0, 1)),
    "recall": _mean_rate((0,), (0, 2)),
    # 2 tp / (2 tp + fp + fn), the harmonic mean of precision and recall.
    "f1": _mean_rate((0,), (0, 1, 2), (2, 1, 1, 1)),
    "yes_rate": _mean_rate((0, 1), (0, 1, 2, 3)),
}
