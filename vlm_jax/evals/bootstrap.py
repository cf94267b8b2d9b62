"""Intervals for figures over samples, by resampling the samples (Efron 1979)."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

_RESAMPLES = 1000


def interval(
    counts: Float[np.ndarray, "n k"],
    statistic: Callable[[Float[np.ndarray, "r k"]], Float[np.ndarray, " r"]],
    seed: int = 0,
) -> tuple[float, float]:
    """95 % percentile interval of ``statistic(counts.sum(0))`` when the samples (images) are drawn anew.

    Args:
        counts: What each sample adds to each of the k sums that the statistic needs.
        statistic: The figure of many resamples at once, from their sums.
        seed: Of the resamples.

    An empty sample gives (0, 0).
    """
    count = len(counts)
    if count == 0:
        return 0.0, 0.0
    # Multinomial counts say how often each sample is drawn: one matrix product instead of a thousand gathers.
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    low, high = np.percentile(statistic(drawn @ counts), [2.5, 97.5])
    return float(low), float(high)


def safe_ratio(top: Float[np.ndarray, "*r"], bottom: Float[np.ndarray, "*r"]) -> Float[np.ndarray, "*r"]:
    """top / bottom, 0 where the denominator is 0, as the metrics have it."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def ratio_interval(
    numerators: Float[np.ndarray, " n"], denominators: Float[np.ndarray, " n"], seed: int = 0
) -> tuple[float, float]:
    """:func:`interval` of sum(numerators) / sum(denominators). A mean is the ratio with denominators 1."""
    return interval(np.stack([numerators, denominators], 1), lambda sums: safe_ratio(sums[:, 0], sums[:, 1]), seed)


def ratio(numerators: Float[np.ndarray, " n"], denominators: Float[np.ndarray, " n"]) -> float:
    """sum / sum, 0 where the denominator is 0."""
    bottom = float(np.sum(denominators))
    return float(np.sum(numerators)) / bottom if bottom else 0.0
