"""POPE (Li et al. 2023): yes/no questions about single objects, half of them absent."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlm_jax.evals.bootstrap import ratio, ratio_interval


def parse(answer: str) -> str:
    """POPE's own rule (``evaluate.py``): the first sentence, commas removed, is a no if it has the word No, not or no;
    anything else is a yes."""
    words = answer.split(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def score(answers: Sequence[str], labels: Sequence[str]) -> dict[str, Any]:
    """Accuracy, precision, recall, F1 (yes is positive) and the share of yes answers.

    A ratio without a denominator is 0. ``accuracy_interval`` is a 95 % bootstrap interval over questions.

    Raises:
        ValueError: The lists differ in length or a label is neither yes nor no.
    """
    if len(answers) != len(labels) or set(labels) - {"yes", "no"}:
        raise ValueError(f"POPE needs one yes/no label an answer, got {len(answers)} and {len(labels)} {set(labels)}")
    said = np.array([parse(answer) == "yes" for answer in answers], bool)
    true = np.array([label == "yes" for label in labels], bool)
    hit = (said & true).astype(float)
    precision, recall = ratio(hit, said.astype(float)), ratio(hit, true.astype(float))
    right = (said == true).astype(float)
    ones = np.ones(len(right))
    return {
        "accuracy": ratio(right, ones),
        "accuracy_interval": ratio_interval(right, ones),
        "precision": precision,
        "recall": recall,
        "f1": 2 * precision * recall / (precision + recall) if precision + recall else 0.0,
        "yes_rate": ratio(said.astype(float), ones),
    }
