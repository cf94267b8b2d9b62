"""Tables in READMEs are what the committed results give."""

from pathlib import Path

import pytest

from experiments.generated import between
from vlm_jax.files import read_json
from vlm_jax.report.tables import markdown_table

ROOT = Path(__file__).parents[2]


def test_the_demos_table():
    scores = read_json(ROOT / "experiments" / "demo" / "results" / "scores.json")
    assert between(ROOT / "README.md", "demo") == markdown_table(scores).strip()


def test_the_tiny_models_table():
    study = ROOT / "experiments" / "scenes_base"
    found = between(study / "README.md", "scores")
    assert found.startswith(markdown_table(read_json(study / "results" / "results.json")["scores"]))


def test_a_readme_without_the_markers(tmp_path):
    (tmp_path / "x.md").write_text("<!-- a --> 1")
    with pytest.raises(ValueError, match=r"no pair of markers <!-- a --> ... <!-- /a -->"):
        between(tmp_path / "x.md", "a")
