"""Intervals for means and ratios over samples, by resampling the samples (Efron 1979)."""

import numpy as np
from jaxtyping import Float

_RESAMPLES = 1000


def ratio_interval(
    numerators: Float[np.ndarray, " n"], denominators: Float[np.ndarray, " n"], seed: int = 0
) -> tuple[float, float]:
    """95 % percentile interval of sum(numerators) / sum(denominators) when samples (images) are drawn anew.

    A mean is the ratio with denominators 1. Resamples whose denominator is 0 count as ratio 0, as the metrics do.
    An empty sample gives (0, 0).
    """
    count = len(numerators)
    if count == 0:
        return 0.0, 0.0
    # Multinomial counts say how often each sample is drawn: one matrix product instead of a thousand gathers.
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=_RESAMPLES)
    top, bottom = drawn @ np.asarray(numerators, float), drawn @ np.asarray(denominators, float)
    ratios = np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def ratio(numerators: Float[np.ndarray, " n"], denominators: Float[np.ndarray, " n"]) -> float:
    """sum / sum, 0 where the denominator is 0."""
    bottom = float(np.sum(denominators))
    return float(np.sum(numerators)) / bottom if bottom else 0.0
