"""The ledger of claims: it is what the committed results give, and what holds follows from figures alone."""

import importlib
import json

import pytest

from experiments import claims
from experiments.claims import Claim, Summary, Wanted, count_of_seeds, over_seeds, read_summary, table, versions_of
from experiments.eval_speed import run as eval_speed
from experiments.generated import between
from experiments.seeds import half_width

STUDIES = claims.studies()


def committed(study):
    return read_summary(study / "results" / "summary.json")


def claim(value=2.0, interval=(1.0, 3.0), over="seeds", by="interval", seeds=5, **bounds):
    return Claim("x, %", "results/x.json", value, interval, over, Wanted(by, **bounds), seeds)


def test_every_study_is_there():
    assert {"demo", "scenes_base", "fact_rlhf", "judge_bias", "eval_speed", "full_size", "chair_names"} <= {
        study.name for study in STUDIES
    }


@pytest.mark.parametrize("study", STUDIES, ids=lambda study: study.name)
def test_the_summary_is_what_the_results_give(study):
    given = importlib.import_module(f"experiments.{study.name}.claims").summary(study)
    # To the digits that are shown: the last ones of an interval are the libraries'.
    assert table({study.name: committed(study)}) == table({study.name: given})
    assert committed(study).versions == given.versions


def test_the_table_is_what_the_summaries_give():
    given = table({study.name: committed(study) for study in STUDIES})
    assert between(claims._HERE / "README.md", "claims") == given


@pytest.mark.parametrize(
    ("bounds", "held"),
    [
        ({"above": 1}, False),
        ({"above": 0.9}, True),
        ({"at_least": 1}, True),
        ({"at_least": 1.1}, False),
        ({"below": 3}, False),
        ({"below": 3.1}, True),
        ({"at_most": 3}, True),
        ({"at_most": 2.5}, False),
        ({"equals": 2}, False),
        ({"at_least": 0, "at_most": 2}, False),
        ({"at_least": 0, "at_most": 4}, True),
    ],
)
def test_both_ends_of_an_interval_keep_the_bound(bounds, held):
    assert claim(**bounds).held is held


@pytest.mark.parametrize(
    ("bounds", "held"), [({"above": 2}, False), ({"above": 1}, True), ({"equals": 2}, True), ({"at_most": 1.9}, False)]
)
def test_a_value_alone_keeps_the_bound(bounds, held):
    assert claim(by="value", **bounds).held is held
    assert claim(by="value", interval=None, over="measured once", **bounds).held is held


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"value": 4.0}, "4.0 does not lie in"),
        ({"value": float("nan")}, "nan does not lie in"),
        ({"interval": (3.0, 1.0)}, "does not lie in"),
        ({"interval": None}, "no interval that could be above 0"),
        ({"above": None}, "nothing is wanted"),
        ({"over": ""}, "told of every claim"),
    ],
)
def test_claims_that_are_none(wrong, found):
    with pytest.raises(ValueError, match=found):
        claim(**({"above": 0} | wrong))


def test_means_over_seeds():
    # Student's t of four degrees: 2.776; five values with the variance 2.5.
    half = 2.776445 * (2.5 / 5) ** 0.5
    assert half_width([1, 2, 3, 4, 5]) == pytest.approx(half)
    mean = over_seeds("x", "y", [1, 2, 3, 4, 5], Wanted("interval", above=1))
    assert (mean.value, mean.seeds, mean.held) == (3, 5, True)
    assert mean.interval == pytest.approx((3 - half, 3 + half))
    alone = over_seeds("x", "y", [2], Wanted("value", above=1))
    assert (alone.interval, alone.interval_over, alone.held) == (None, "one seed", True)


def test_counts_of_seeds():
    met = count_of_seeds("x", "y", [True, False, True], 2)
    assert (met.value, met.interval, met.seeds, met.held) == (2, None, 3, True)
    assert not count_of_seeds("x", "y", [True, False, False], 2).held


def test_versions_are_those_that_results_name():
    found = versions_of([{"versions": {"jax": "1", "vlm_jax": "3"}}, {"versions": {"jax": "2"}}])
    assert (found["jax"], found["vlm-jax"], found["numpy"]) == ("1, 2", "3", None)


def test_a_summary_is_read_back_and_a_changed_one_is_not(tmp_path):
    path = tmp_path / "summary.json"
    given = [claim(above=0), claim(by="value", interval=None, over="measured once", at_least=3, seeds=None)]
    written = {"claims": [one.as_json() for one in given], "versions": {"jax": None}}
    path.write_text(json.dumps(written))
    assert read_summary(path) == Summary(given, {"jax": None})
    assert [row["held"] for row in written["claims"]] == [True, False]
    written["claims"][1]["held"] = True
    path.write_text(json.dumps(written))
    with pytest.raises(ValueError, match="held is True, and its figures say False"):
        read_summary(path)
    path.write_text('{"claims": [], "versions": {}}')
    with pytest.raises(ValueError, match="without a claim"):
        read_summary(path)


def test_a_study_that_is_run_again_says_so(tmp_path, monkeypatch):
    """Slower than wanted, and the table has it."""
    study = tmp_path / "eval_speed"
    study.mkdir()
    (study / "__init__.py").touch()
    (study / "README.md").write_text("<!-- table -->\n<!-- /table -->")
    (tmp_path / "README.md").write_text("<!-- claims -->\n<!-- /claims -->")
    for module, here in ((claims, tmp_path), (eval_speed, study)):
        monkeypatch.setattr(module, "_HERE", here)
    for scorer, seconds in (("chair", 61.0), ("pope", 19.5)):
        found = {"seconds": seconds, "cpu_seconds": seconds, "peak_gib": 0.5}
        monkeypatch.setattr(eval_speed, scorer, lambda folder, size, found=found: found)
    eval_speed.main(eval_speed.Options(tmp_path))
    assert [one.held for one in committed(study).claims] == [False, True]
    assert "| 61.0 (no interval: measured once) | at most 60 | **no** | 1 |" in (tmp_path / "README.md").read_text()
