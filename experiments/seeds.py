"""Figures over seeds."""

from collections.abc import Sequence

from scipy import stats


def half_width(values: Sequence[float]) -> float | None:
    """Half of the 95 % interval of the mean over seeds (Student's t), which a single seed does not have."""
    if len(values) < 2:
        return None
    return float(stats.sem(values) * stats.t.ppf(0.975, len(values) - 1))
