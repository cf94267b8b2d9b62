import itertools
import math
import re

import pytest

from vlm_jax.report.plots import Panel, lines, points, smooth, ticks, window


@pytest.mark.parametrize(
    ("low", "high"), [(0.0, 1.0), (-0.31, 1.27), (3.0, 3.0), (0.0, 0.0), (1e-5, 3e-5), (940.0, 2048.0)]
)
def test_ticks_are_round_few_and_cover_the_values(low, high):
    marks = ticks(low, high)
    assert 2 <= len(marks) <= 8
    assert marks[0] <= low
    assert marks[-1] >= high
    steps = [b - a for a, b in itertools.pairwise(marks)]
    assert steps == pytest.approx([steps[0]] * len(steps))
    assert all(len(f"{mark:g}") <= 7 for mark in marks)


def test_points_leave_out_missing_and_infinite_values():
    rows = [{"step": 1, "kl": 0.5}, {"step": 2}, {"step": 3, "kl": math.nan}, {"step": 4, "kl": math.inf}]
    assert points(rows, "kl") == [(1.0, 0.5)]


def test_smoothing_keeps_a_straight_line_and_quiets_noise():
    straight = [(float(i), 2.0 * i) for i in range(60)]
    half = window(60) // 2
    assert smooth(straight)[half:-half] == straight[half:-half]
    noisy = [(float(i), float(i % 2)) for i in range(60)]
    assert all(abs(value - 0.5) <= 0.2 for _, value in smooth(noisy))
    assert smooth(noisy[:10]) == noisy[:10]


def test_coinciding_curves_keep_their_names_apart():
    line = [(0.0, 1.0), (5.0, 2.0)]
    drawn = str(
        lines(Panel("kl", "KL", "nats"), {"one": line, "two": line, "three": line}, {"one": 0, "two": 1, "three": 2})
    )
    heights = [float(y) for y in re.findall(r'class="name s\d" x="[\d.]+" y="([\d.]+)"', drawn)]
    assert len(heights) == 3
    assert min(abs(a - b) for a, b in itertools.combinations(heights, 2)) >= 13.9
