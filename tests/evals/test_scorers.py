"""Counts and intervals by hand, for scorers whose objects and ratings are found already (drawn scenes)."""

import numpy as np
import pytest

from vlm_jax.evals.chair import scorer as chair
from vlm_jax.evals.mmhal import scorer as mmhal
from vlm_jax.evals.statistics.bootstrap import interval, safe_ratio


def test_chair_by_hand():
    mentions = [["dog", "dog", "cat"], ["sun"], [], ["tree", "bird", "fox"]]
    present = [{"dog"}, {"sun", "moon"}, {"cat"}, {"tree"}]
    found = chair.report(mentions, present)
    # Mentions count with repeats: cat, bird and fox of seven; captions 1 and 4 of four; dog, sun and tree of five.
    assert found["hallucinated"] == 3
    assert found["mentions"] == 7
    assert found["chair_i"] == pytest.approx(3 / 7)
    assert found["chair_s"] == pytest.approx(2 / 4)
    assert found["recall"] == pytest.approx(3 / 5)
    for name in ("chair_i", "chair_s", "recall"):
        low, high = found[f"{name}_interval"]
        assert 0 <= low <= found[name] <= high <= 1


def test_the_change_of_chair_is_paired():
    """Where both models err on the same images, the images are no reason to doubt the change."""
    rng = np.random.default_rng(0)
    present = [{"dog"}] * 200
    wrong = rng.random(200) < 0.3
    before = chair.report([["dog", "cat"] if w else ["dog", "dog"] for w in wrong], present)
    after = chair.report([["dog", "dog"]] * 200, present)
    assert chair.change_interval(before, before) == (0.0, 0.0)
    low, high = chair.change_interval(before, after)
    assert low < -before["chair_i"] < high < 0


def test_chair_without_mentions_is_no_division_by_zero():
    found = chair.report([[], []], [{"dog"}, set()])
    assert (found["chair_i"], found["chair_s"], found["recall"]) == (0, 0, 0)
    assert chair.report([], [])["chair_i"] == 0
    with pytest.raises(ValueError, match="one set of objects a caption"):
        chair.report([["dog"]], [])


def test_mmhal_by_hand():
    found = mmhal.score([6, 2, 3, 0], ["attribute", "counting", "attribute", "counting"])
    assert found["score"] == pytest.approx(11 / 4)
    assert found["hallucination_rate"] == pytest.approx(2 / 4)
    assert found["by_type"] == {"attribute": 4.5, "counting": 1.0}
    assert mmhal.score([], [])["score"] == 0.0


@pytest.mark.parametrize(("ratings", "types"), [([7], ["a"]), ([-1], ["a"]), ([3], [])])
def test_mmhal_refuses_what_is_no_rating(ratings, types):
    with pytest.raises(ValueError, match="MMHal needs one type"):
        mmhal.score(ratings, types)


def ratio_interval(tops, bottoms, seed=0):
    return interval(np.stack([tops, bottoms], 1), lambda sums: safe_ratio(sums[:, 0], sums[:, 1]), seed)


def test_intervals_cover_the_truth_as_often_as_they_say():
    rng, ones, runs = np.random.default_rng(0), np.ones(200), 300
    hits = 0
    for run in range(runs):
        low, high = ratio_interval((rng.random(200) < 0.3).astype(float), ones, seed=run)
        hits += low <= 0.3 <= high
    # Five standard errors around 95 %.
    assert abs(hits / runs - 0.95) < 0.063


def test_intervals_narrow_with_the_root_of_the_sample():
    rng = np.random.default_rng(0)
    widths = {}
    for count in (100, 1600):
        low, high = ratio_interval((rng.random(count) < 0.5).astype(float), np.ones(count))
        widths[count] = high - low
    assert widths[100] == pytest.approx(2 * 1.96 * 0.5 / 10, rel=0.2)
    assert widths[100] / widths[1600] == pytest.approx(4, rel=0.25)


def test_intervals_of_ratios_resample_both_sides_together():
    # Every sample has ratio 1/2, whatever its size: there is nothing to be unsure about.
    sizes = np.array([2.0, 10.0, 4.0, 100.0])
    assert ratio_interval(sizes / 2, sizes) == (0.5, 0.5)


def test_intervals_are_repeatable_and_survive_nothing():
    values, ones = np.arange(10.0), np.ones(10)
    assert ratio_interval(values, ones) == ratio_interval(values, ones)
    assert ratio_interval(values, ones, seed=1) != ratio_interval(values, ones, seed=2)
    nothing = np.zeros(0)
    assert ratio_interval(nothing, nothing) == (0.0, 0.0)
    assert ratio_interval(np.zeros(3), np.zeros(3)) == (0.0, 0.0)
