"""MMHal-Bench (Sun et al. 2023): ratings from 0 to 6 over eight question types; below 3 is a hallucination."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from vlm_jax.evals.bootstrap import ratio, ratio_interval


def score(ratings: Sequence[int], types: Sequence[str]) -> dict[str, Any]:
    """Mean rating, hallucination rate (rating < 3), mean rating of each type; 95 % bootstrap intervals over questions.

    Raises:
        ValueError: The lists differ in length or a rating lies outside 0 to 6.
    """
    if len(ratings) != len(types) or any(not 0 <= rating <= 6 for rating in ratings):
        raise ValueError(f"MMHal needs one type and a rating of 0 to 6 an answer, got {len(types)} types, {ratings}")
    rated = np.array(ratings, float)
    below, ones = (rated < 3).astype(float), np.ones(len(rated))
    return {
        "score": ratio(rated, ones),
        "score_interval": ratio_interval(rated, ones),
        "hallucination_rate": ratio(below, ones),
        "hallucination_rate_interval": ratio_interval(below, ones),
        "by_type": {
            name: float(np.mean([r for r, t in zip(ratings, types, strict=True) if t == name]))
            for name in dict.fromkeys(types)
        },
    }
