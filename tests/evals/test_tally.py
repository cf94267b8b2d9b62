"""Paired comparisons of two systems."""

import numpy as np
import pytest

from vlm_jax.errors import InputError
from vlm_jax.evals.statistics.bootstrap import interval, safe_ratio, swap_p_value
from vlm_jax.evals.statistics.tally import Tally, compare, unit_counts


def share(sums):
    return safe_ratio(sums[:, 0], sums[:, 1])


def right(hits):
    return np.stack([np.asarray(hits, float), np.ones(len(hits))], 1)


def tally(hits):
    return Tally([str(place) for place in range(len(hits))], right(hits), {"accuracy": share})


def test_the_same_answers_differ_by_nothing():
    hits = np.random.default_rng(0).random(100) < 0.5
    found = compare(tally(hits), tally(hits))["accuracy"]
    assert (found["difference"], found["interval"], found["p_value"]) == (0.0, (0.0, 0.0), 1.0)


def test_p_values_equal_the_sign_test():
    """Where the systems differ in n samples, all to one side, the exact p-value is 2 / 2^n."""
    before, after = np.zeros(50), np.zeros(50)
    after[:8] = 1
    assert swap_p_value(right(before), right(after), share) == pytest.approx(2 / 2**8, abs=0.003)
    after[:8] = [1, 1, 1, 1, 1, 1, 0, 0]
    before[6:8] = 1
    # 6 to one side, 2 to the other: P(|X - 4| >= 2) for 8 fair coins.
    assert swap_p_value(right(before), right(after), share) == pytest.approx(2 * (28 + 8 + 1) / 256, abs=0.02)


def test_large_samples_stay_paired():
    """Thousands of samples are summed in groups: the same ones of both systems."""
    hard = np.random.default_rng(0).random(20_000) < 0.5
    better = hard.copy()
    better[np.flatnonzero(~hard)[:40]] = True
    assert swap_p_value(right(hard), right(better), share) < 0.001


def test_p_values_are_even_under_the_null():
    rng, p_values = np.random.default_rng(0), []
    for _ in range(200):
        pair = rng.random((2, 60)) < rng.random(60)
        p_values.append(swap_p_value(right(pair[0]), right(pair[1]), share))
    # Ties make them larger than even, never smaller.
    assert np.mean(np.array(p_values) < 0.1) < 0.1 + 3 * np.sqrt(0.09 / 200)
    assert np.mean(np.array(p_values) < 0.5) > 0.25


def test_comparisons_are_paired():
    """Samples that are hard for both are no reason to doubt a difference."""
    hard = np.random.default_rng(0).random(400) < 0.5
    better = hard.copy()
    better[np.flatnonzero(~hard)[:12]] = True
    found = compare(tally(hard), tally(better))["accuracy"]
    assert found["difference"] == pytest.approx(12 / 400)
    assert found["interval"][0] > 0
    assert found["p_value"] < 0.001


def test_other_samples_cannot_be_compared():
    with pytest.raises(InputError, match="about 0 other images or questions, and none about 1"):
        compare(tally([1, 0, 1]), tally([1, 0, 1, 1]))


def test_many_samples_keep_their_interval():
    """Beyond some thousands they are summed in groups first, which must not change how wide it is."""
    rng = np.random.default_rng(0)
    hits = right(rng.random(50_000) < 0.3)
    low, high = interval(hits, share)
    assert high - low == pytest.approx(2 * 1.96 * np.sqrt(0.21 / 50_000), rel=0.15)
    assert low < hits[:, 0].mean() < high


def test_units_are_sorted_and_summed():
    units, counts = unit_counts(["b", "a", "b"], np.array([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]))
    assert units == ["a", "b"]
    assert counts.tolist() == [[3, 4], [6, 8]]
    assert unit_counts([], np.zeros((0, 2)))[1].shape == (0, 2)
