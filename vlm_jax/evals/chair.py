"""CHAIR (Rohrbach et al. 2018): how many of the objects that a caption names are not in the image."""

from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np

from vlm_jax.evals.bootstrap import interval, ratio, ratio_interval, safe_ratio


def score(mentions: Sequence[Sequence[str]], present: Sequence[Set[str]]) -> dict[str, Any]:
    """CHAIR over captions whose objects have been found already.

    Args:
        mentions: For each caption, the objects it names, in the image's vocabulary; one entry a mention.
        present: For each image, the objects that are there.

    Returns:
        ``chair_i`` (hallucinated mentions / mentions), ``chair_s`` (captions with one / captions), ``recall`` (present
        objects named / present objects), each with a 95 % bootstrap interval over images; ``mentions`` and
        ``hallucinated`` counts; ``wrong_by_caption`` and ``named_by_caption``, the mentions of each caption.

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
        "wrong_by_caption": wrong.astype(int).tolist(),
        "named_by_caption": named.astype(int).tolist(),
    }


def change_interval(before: Mapping[str, Any], after: Mapping[str, Any]) -> tuple[float, float]:
    """95 % bootstrap interval of CHAIR_i after minus before, both from :func:`score` over the same images in one order:
    every image is drawn with both of its captions."""
    columns = [scores[key] for scores in (before, after) for key in ("wrong_by_caption", "named_by_caption")]

    def change(sums):
        return safe_ratio(sums[:, 2], sums[:, 3]) - safe_ratio(sums[:, 0], sums[:, 1])

    return interval(np.array(columns, float).T, change)
