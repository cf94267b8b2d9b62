import io
import re

import pytest
from known_scores import scores_of
from rich.console import Console

from vlm_jax.report.measures import BEST, BRACKETS, rows, written_interval
from vlm_jax.report.tables import markdown_table, print_scores, summary

KEYS = {
    "pope_f1", "pope_accuracy", "chair_i", "chair_s", "recall", "mmhal_score", "mmhal_hallucination_rate",
    "mean_length", "reward_accuracy",
}  # fmt: skip


def printed(models, terminal=False, width=100):
    stream = io.StringIO()
    colours = "standard" if terminal else None
    print_scores(models, Console(file=stream, width=width, force_terminal=terminal, color_system=colours))
    return stream.getvalue()


def test_summary_has_exactly_the_flat_keys_with_rates_between_0_and_1():
    flat = summary(scores_of(20) | {"reward_accuracy": 0.75})
    assert set(flat) == KEYS
    # 20 kites among 100 mentions; POPE without the partner setting.
    expected = {"chair_i": 0.2, "chair_s": 0.5, "recall": 1.0, "pope_f1": 0.8, "pope_accuracy": 0.6}
    assert {key: flat[key] for key in expected} == pytest.approx(expected)
    assert flat["mmhal_score"] == pytest.approx(3.5)
    assert flat["mmhal_hallucination_rate"] == pytest.approx(0.25)
    assert (flat["mean_length"], flat["reward_accuracy"]) == (12.5, 0.75)


def test_a_summary_without_reward_accuracy_says_so():
    flat = summary(scores_of(20))
    assert set(flat) == KEYS
    assert flat["reward_accuracy"] is None


def of_recall(*intervals):
    """Scores that differ in recall's interval alone."""
    chair = {"recall": 0.5, "hallucinated": 0}
    return {
        str(i): scores_of(4) | {"chair": chair | {"recall_interval": ends} if ends else chair}
        for i, ends in enumerate(intervals)
    }


@pytest.mark.parametrize(
    ("intervals", "best"),
    [
        (((0.1, 0.2), (0.3, 0.4), (0.2, 0.25)), 1),
        # Better than the first, but not than the third.
        (((0.1, 0.2), (0.3, 0.4), (0.2, 0.35)), None),
        # Apart by less than is written.
        (((0.1, 0.2), (0.2004, 0.4)), None),
        (((0.1, 0.2), (0.2006, 0.4)), 1),
        (((0.1, 0.2), None), None),
        (((0.1, 0.2),), None),
    ],
)
def test_only_what_lies_beyond_all_others_is_best(intervals, best):
    (found,) = (row.best for row in rows(of_recall(*intervals)) if row.measure.key == "recall")
    assert found == best


def test_the_best_follows_each_measures_direction(models):
    best = {row.measure.key: row.best for row in rows({"a": scores_of(30), "b": scores_of(4, found=1)})}
    assert (best["chair_i"], best["recall"]) == (1, 0)
    # 4 of 84 against 20 and 18 of about 100, and these against each other.
    assert {row.measure.key: row.best for row in rows(models)}["chair_i"] == 2
    del models["with facts"]
    assert {row.measure.key: row.best for row in rows(models)}["chair_i"] is None


def test_what_has_no_direction_or_no_interval_is_never_best():
    told = {"mean_length": 9.0, "reward_accuracy": 0.9}
    best = {row.measure.key: row.best for row in rows({"a": scores_of(4), "b": scores_of(30) | told})}
    assert (best["mean_length"], best["reward_accuracy"], best["chair_i"]) == (None, None, 0)


def test_the_table_fits_100_columns_and_holds_percent_and_intervals(models):
    text = printed(models)
    assert max(map(len, text.splitlines())) <= 100
    line = next(line for line in text.splitlines() if line.startswith("CHAIR_i"))
    low, high = (100 * end for end in models["the start"]["chair"]["chair_i_interval"])
    assert f"20.0 [{low:.1f}, {high:.1f}]" in line
    assert "Reward accuracy" not in text
    assert "Reward accuracy" in printed({"one": scores_of(1) | {"reward_accuracy": 0.7}})


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7])
def test_no_interval_is_cut_in_two_at_80_columns(count):
    named = {f"runs/of/a/long/name/{i}/adapter": scores_of(3 * i) for i in range(count)}
    text = printed(named, width=80)
    assert max(map(len, text.splitlines())) <= 80
    for row in rows(named):
        for figure in row.figures:
            if figure.interval is not None:
                assert written_interval(row.measure, figure.interval) in text
    # Everything that is opened is closed on its line.
    assert all(line.count("[") == line.count("]") for line in text.splitlines())
    assert sum(line.startswith("CHAIR_i") for line in text.splitlines()) == -(-count // 3)


def test_only_a_comparison_has_emphasis(models):
    line = next(line for line in printed(models, terminal=True).splitlines() if "CHAIR_i" in line)
    assert re.search(r"\x1b\[1;32m *4\.8\x1b", line)
    assert "\x1b[1;32m" not in printed({"one": scores_of(3)}, terminal=True)
    assert "bold" not in printed({"one": scores_of(3)})
    assert BEST in " ".join(printed(models).split())


def test_a_model_name_is_no_markup():
    assert "runs/[red]x" in printed({"runs/[red]x": scores_of(3)})


def test_markdown_has_one_column_a_model_and_bold_best_values(models):
    lines = markdown_table(models | {"a|b": scores_of(30)}).splitlines()
    assert lines[0] == "|  | the start | plain | with facts | a\\|b |"
    assert lines[1] == "|---|---:|---:|---:|---:|"
    chair_i = next(line for line in lines if line.startswith("| CHAIR\\_i"))
    assert chair_i.count("**") == 2
    assert "| **4.8** [" in chair_i
    assert lines[-1] == f"{BRACKETS} {BEST}"
