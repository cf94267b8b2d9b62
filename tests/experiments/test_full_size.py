"""The experiment on full-size checkpoints removes what it made and nothing else."""

import pytest

from experiments.full_size import run as full_size
from vlm_jax.errors import InputError


@pytest.fixture
def here(monkeypatch, tmp_path):
    """A place for results, and measurements that write what they would."""
    (tmp_path / "here" / "results").mkdir(parents=True)
    monkeypatch.setattr(full_size, "_HERE", tmp_path / "here")
    monkeypatch.setattr(full_size, "table", lambda: "")
    monkeypatch.setattr(full_size, "replace_between", lambda *_: None)
    monkeypatch.setattr(full_size, "record", lambda *_: None)
    return tmp_path / "here"


@pytest.fixture
def measured(monkeypatch):
    """What was measured, in order."""
    seen = []

    def run_one(folder, size, scheme, target):
        (folder / size).mkdir(exist_ok=True)
        (folder / f"{size}-{scheme}").mkdir()
        target.write_text("new")
        seen.append((size, scheme))

    monkeypatch.setattr(full_size, "run_one", run_one)
    return seen


@pytest.fixture
def mine(tmp_path):
    """A user's checkpoint of the name that the experiment gives its own."""
    weights = tmp_path / "models" / "a" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    weights.write_text("years of work")
    return weights


def options(tmp_path, **more):
    return full_size.Options(tmp_path / "models", sizes=("a", "b"), schemes=("int8", "nf4"), **more)


def test_results_that_are_there_need_a_word_to_be_measured_again(here, measured, mine, tmp_path, capsys):
    for name in ("a_int8", "a_nf4", "b_nf4"):
        (here / "results" / f"{name}.json").write_text("old")
    full_size.main(options(tmp_path))
    assert not measured
    assert capsys.readouterr().out.count("--again measures anew") == 3
    full_size.main(options(tmp_path, again=True))
    assert measured == [("a", "int8"), ("a", "nf4"), ("b", "nf4")]
    assert {path.read_text() for path in (here / "results").iterdir()} == {"new"}
    assert mine.read_text() == "years of work"
    assert [path.name for path in (tmp_path / "models").iterdir()] == ["a"]


def test_a_folder_of_the_same_name_is_not_touched(here, measured, mine, tmp_path):
    other = tmp_path / "models" / "vlm_jax_full_size" / "a"
    mine.parent.parent.joinpath("vlm_jax_full_size").mkdir()
    mine.parent.rename(other)
    with pytest.raises(InputError, match=r"vlm_jax_full_size: found a folder without"):
        full_size.main(options(tmp_path))
    assert (other / "model.safetensors").read_text() == "years of work"
    assert not measured


def test_a_stopped_run_goes_on(here, measured, tmp_path, monkeypatch):
    def stopped(folder, size, scheme, target):
        raise KeyboardInterrupt

    run_one = full_size.run_one
    monkeypatch.setattr(full_size, "run_one", lambda *part: (stopped if part[1] == "b" else run_one)(*part))
    with pytest.raises(KeyboardInterrupt):
        full_size.main(options(tmp_path, again=True))
    assert not list((here / "results").iterdir())
    monkeypatch.setattr(full_size, "run_one", run_one)
    full_size.main(options(tmp_path, again=True))
    assert measured == [("a", "int8"), ("a", "nf4"), ("b", "nf4")]
