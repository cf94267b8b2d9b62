"""Intervals for figures over samples by resampling the samples (Efron 1979), and a randomisation test of two
systems."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float

_RESAMPLES = 1000
_SWAPS, _COINS = 9999, 909  # Drawn that many at a time.
# More samples than this are first summed into this many groups at random, which leaves the variance of a sum as it is.
_MOST = 4096

Statistic = Callable[[Float[np.ndarray, "r k"]], Float[np.ndarray, " r"]]


def interval(counts: Float[np.ndarray, "n k"], statistic: Statistic, seed: int = 0) -> tuple[float, float]:
    """95 % percentile interval of ``statistic(counts.sum(0))`` when the samples (images) are drawn anew.

    Args:
        counts: What each sample adds to each of the k sums that the statistic needs.
        statistic: The figure of many resamples at once, from their sums.
        seed: Of the resamples.

    An empty sample gives (0, 0).
    """
    return interval_of(resampled(counts, seed), statistic)


def resampled(counts: Float[np.ndarray, "n k"], seed: int = 0) -> Float[np.ndarray, "r k"]:
    """The sums of many resamples; none of an empty sample."""
    if len(counts) == 0:
        return np.zeros((0, counts.shape[1]))
    rng = np.random.default_rng(seed)
    counts = _grouped(counts, rng)
    # Multinomial counts say how often each sample is drawn: one matrix product instead of a thousand gathers.
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), size=_RESAMPLES)
    return drawn @ counts


def interval_of(sums: Float[np.ndarray, "r k"], statistic: Statistic) -> tuple[float, float]:
    """:func:`interval`, from :func:`resampled`."""
    if len(sums) == 0:
        return 0.0, 0.0
    low, high = np.percentile(statistic(sums), [2.5, 97.5])
    return float(low), float(high)


def swap_p_value(
    before: Float[np.ndarray, "n k"], after: Float[np.ndarray, "n k"], statistic: Statistic, seed: int = 0
) -> float:
    """Two-sided p-value of a paired randomisation test (Noreen 1989): how often a difference as large comes out when,
    for each sample, it is left to a coin which system gave which answer.

    Args:
        before, after: What each sample adds to the sums, by system; the same samples in one order.
        statistic: The figure of many resamples at once, from their sums.
        seed: Of the coins.
    """
    rng = np.random.default_rng(seed)
    first, second = np.split(_grouped(np.concatenate([before, after], 1), rng), 2, axis=1)
    found, as_large = abs(_difference(statistic, first.sum(0)[None], second.sum(0)[None])[0]), 0
    for _ in range(_SWAPS // _COINS):
        moved = rng.integers(0, 2, (_COINS, len(first))) @ (second - first)
        change = _difference(statistic, first.sum(0) + moved, second.sum(0) - moved)
        # A hair below the difference found is the same difference, summed in another order.
        as_large += int((np.abs(change) >= found - 1e-9).sum())
    return (1 + as_large) / (1 + _SWAPS)


def _difference(statistic: Statistic, before: np.ndarray, after: np.ndarray) -> np.ndarray:
    return statistic(after) - statistic(before)


def _grouped(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    if len(counts) <= _MOST:
        return counts
    places = rng.permutation(np.arange(len(counts)) % _MOST)
    return np.stack([np.bincount(places, column, _MOST) for column in counts.T], 1)


def safe_ratio(top: Float[np.ndarray, "*r"], bottom: Float[np.ndarray, "*r"]) -> Float[np.ndarray, "*r"]:
    """top / bottom, 0 where the denominator is 0, as the metrics have it."""
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)
