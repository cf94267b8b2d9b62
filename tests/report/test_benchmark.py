"""A benchmark's result on the terminal."""

import dataclasses
import io

import numpy as np
import pytest
from rich.console import Console

from vlm_jax.evals.result import result_of
from vlm_jax.evals.statistics.tally import Scored, Tally
from vlm_jax.report.benchmark import print_result


def scored(**changes):
    half = Tally(["a", "b"], np.array([[0.0, 3.0], [1.0, 3.0]]), {"rate": lambda sums: 100 * sums[:, 0] / sums[:, 1]})
    return Scored(metrics={"rate": 16.7}, per_sample=[{}, {}], unparsed=0, tally=half, decimals={"rate": 1}, **changes)


def shown(one, width=200, against=None):
    out = io.StringIO()
    print_result(result_of("X", "official", one, {}, against), Console(file=out, width=width))
    return out.getvalue()


def test_names_stand_as_they_are():
    """Brackets are no colours."""
    text = shown(scored(tables={"by [kind]": {"[/red] a [mask]": {"right": 1.25, "n": 2}}}, remarks=("see [1]",)))
    for name in ("by [kind]", "[/red] a [mask]", "Note: see [1]."):
        assert name in text


def test_a_rounded_figure_lies_in_its_interval():
    one = scored()
    low, high = result_of("X", "official", one, {})["intervals"]["rate"]
    assert (low, high) == (0.0, 33.4)
    same = Tally(["a", "b"], np.array([[1.0, 6.0]] * 2), one.tally.figures)
    alone = Scored(metrics={"rate": 16.7}, per_sample=[{}], unparsed=0, tally=same, decimals={"rate": 1})
    assert result_of("X", "official", alone, {})["intervals"]["rate"] == (16.6, 16.7)
    assert "16.7 │ 16.6 to 16.7" in shown(alone)
    exact = Tally(["a", "b"], np.array([[0.57, 100.0]] * 2), one.tally.figures)
    scale = dataclasses.replace(alone, metrics={"rate": 0.57}, tally=exact, decimals={"rate": 2})
    assert result_of("X", "official", scale, {})["intervals"]["rate"] == (0.57, 0.57)


def test_one_image_says_nothing_of_others():
    alone = dataclasses.replace(scored(), tally=Tally(["a"], np.array([[1.0, 6.0]]), scored().tally.figures))
    assert result_of("X", "official", alone, {})["intervals"] == {}
    assert " to " not in shown(alone)


def test_unread_answers_are_told_loudly():
    text = shown(Scored({"rate": 0.0}, [{}] * 3, 2, Tally([], np.zeros((0, 1)), {})))
    assert "2 without anything to read" in text
    assert "Note: MOST ANSWERS COULD NOT BE READ" in text
    assert "MOST" not in shown(Scored({"rate": 0.0}, [{}] * 4, 2, Tally([], np.zeros((0, 1)), {})))


def test_nothing_to_score_is_no_empty_table():
    assert "95 %" not in shown(Scored({}, [{}], 0, Tally([], np.zeros((0, 1)), {})))


@pytest.mark.parametrize("letters", [6, 26, 45])
def test_no_interval_is_cut_in_two_at_80_columns(letters):
    """Nor any figure; the name gives way."""
    name = "accuracy_fallacy_oversight_and_more_that_nobody_reads"[:letters]
    constant = {f"all {letter}": {name: 0.25} for letter in "AB"}
    half = Tally(["a", "b"], np.array([[0.0, 3.0], [1.0, 3.0]]), {name: lambda sums: sums[:, 0] / sums[:, 1]})
    one = Scored(metrics={name: 1 / 6}, per_sample=[{}], unparsed=0, tally=half, baselines=constant)
    text = shown(one, 80, against=one)
    assert max(map(len, text.splitlines())) <= 80
    for whole in ("0.1667", "0.0000 to 0.3333", "0.2500", "+0.0000 to +0.0000", "1.000"):
        assert whole in text
    # A column of its own where there is room.
    assert ("0.1667 │ 0.0000 to 0.3333" in text) == (letters <= 26)
    assert ("+0.0000 │ +0.0000 to +0.0000" in text) == (letters <= 6)
