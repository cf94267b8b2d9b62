"""CHAIR (Rohrbach et al. 2018): how many of the objects that a caption names are not in the image."""

from collections.abc import Sequence, Set
from typing import Any

import numpy as np

from vlm_jax.evals.bootstrap import ratio, ratio_interval


def score(mentions: Sequence[Sequence[str]], present: Sequence[Set[str]]) -> dict[str, Any]:
    """CHAIR over captions whose objects have been found already.

    Args:
        mentions: For each caption, the objects it names, in the image's vocabulary; one entry a mention.
        present: For each image, the objects that are there.

    Returns:
        ``chair_i`` (hallucinated mentions / mentions), ``chair_s`` (captions with one / captions), ``recall`` (present
        objects named / present objects), each with a 95 % bootstrap interval over images; ``mentions`` and
        ``hallucinated`` counts.

    Raises:
        ValueError: The lists differ in length.
    """
    if len(mentions) != len(present):
        raise ValueError(f"CHAIR needs one set of objects a caption, got {len(mentions)} and {len(present)}")
    wrong = np.array([sum(m not in here for m in named) for named, here in zip(mentions, present, strict=True)], float)
    named = np.array([len(m) for m in mentions], float)
    covered = np.array([len(set(m) & set(here)) for m, here in zip(mentions, present, strict=True)], float)
    there = np.array([len(here) for here in present], float)
    flagged, ones = (wrong > 0).astype(float), np.ones(len(wrong))
    return {
        "chair_i": ratio(wrong, named),
        "chair_i_interval": ratio_interval(wrong, named),
        "chair_s": ratio(flagged, ones),
        "chair_s_interval": ratio_interval(flagged, ones),
        "recall": ratio(covered, there),
        "recall_interval": ratio_interval(covered, there),
        "mentions": int(named.sum()),
        "hallucinated": int(wrong.sum()),
    }
