"""Adapters kept on the way and the best of them, also where a kill comes between a saved state and what was due."""

import json
import shutil

import jax
import numpy as np
import pytest
from test_loop import go_with, scalar_parts

from vlm_jax.errors import DivergedError, InputError
from vlm_jax.files import new_folder, write_json
from vlm_jax.runs import milestones
from vlm_jax.runs.log import read_metrics
from vlm_jax.runs.milestones import Evaluation, Kept, Milestones


def save(folder, params, notes):
    with new_folder(folder) as partial:
        write_json(partial / "value.json", float(params["head"]["kernel"][0]))
        for name, contents in notes.items():
            write_json(partial / name, contents)


def value_of(folder):
    return json.loads((folder / "value.json").read_text())


def told(folder):
    return json.loads((folder / "best" / "best.json").read_text())


def measured(values):
    """A measure that knows what to say of each step; the parameter counts them."""
    return lambda params: {"score": values[int(params["head"]["kernel"][0])]}


@pytest.fixture
def parts(config):
    return scalar_parts(99, 0.0)(config)


SCORES = {2: 1.0, 3: 0.0, 5: 0.0, 4: 3.0, 6: 2.0, 7: 0.5}


def asked(higher=True, rows="here", values=SCORES, **options):
    evaluation = Evaluation(2, measured(values), "score", higher, rows)
    return Milestones(**{"keep_every": 3, "evaluation": evaluation, "save": save, **options})


def test_what_is_kept_and_measured(parts, tmp_path):
    go_with(tmp_path, parts, asked(), steps=7, save_every=100, log_every=5)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["3", "6"]
    assert [value_of(tmp_path / "kept" / step) for step in "36"] == [3, 6]
    # The last step is measured as well, and those that are measured or kept are logged.
    rows = {row["step"] + 1: row.get("held_out_score") for row in read_metrics(tmp_path / "metrics.jsonl")}
    assert rows == {2: 1.0, 3: None, 4: 3.0, 5: None, 6: 2.0, 7: 0.5}
    assert value_of(tmp_path / "best") == 4
    assert told(tmp_path) == {"step": 4, "metric": "held_out_score", "value": 3.0, "rows": "here"}


def test_lower_is_better(parts, tmp_path):
    go_with(tmp_path, parts, asked(higher=False), steps=7)
    assert (value_of(tmp_path / "best"), told(tmp_path)["value"]) == (7, 0.5)


def test_nothing_is_written_where_nothing_is_asked_for(parts, tmp_path):
    go_with(tmp_path, parts, Milestones(), steps=7)
    go_with(tmp_path, parts, asked(keep_every=None, evaluation=Evaluation(2, measured(SCORES))), steps=7)
    assert not (tmp_path / "kept").exists()
    assert not (tmp_path / "best").exists()


@pytest.mark.parametrize("at", [3, 4, 6])
def test_a_kill_between_state_and_adapter_is_made_up_for(parts, tmp_path, monkeypatch, at):
    """Whatever was not written when the state of a step was saved, is written when the run goes on."""
    write = Kept.write

    def killed(self, done, params, metrics):
        if done == at:
            raise KeyboardInterrupt
        write(self, done, params, metrics)

    monkeypatch.setattr(Kept, "write", killed)
    with pytest.raises(KeyboardInterrupt):
        go_with(tmp_path, parts, asked(), steps=7, save_every=100)
    monkeypatch.setattr(Kept, "write", write)
    go_with(tmp_path / "straight", parts, asked(), steps=7, save_every=100)
    shutil.copytree(tmp_path / "straight", tmp_path / "expected")
    go_with(tmp_path, parts, asked(), steps=7, save_every=100)
    for name in ("kept/3/value.json", "kept/6/value.json", "best/value.json", "best/best.json", "metrics.jsonl"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "expected" / name).read_bytes(), name


def test_half_written_folders_go(parts, tmp_path):
    for name in (".best.partial-x", "kept/.3.partial-y"):
        (tmp_path / name / "half").mkdir(parents=True)
    go_with(tmp_path, parts, asked(), steps=3)
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == ["3"]
    assert not list(tmp_path.glob(".best*"))


def test_a_best_of_before_stays_unless_it_is_beaten(parts, tmp_path):
    go_with(tmp_path, parts, asked(), steps=5)
    go_with(tmp_path, parts, asked(), steps=7)
    assert told(tmp_path)["step"] == 4
    go_with(tmp_path, parts, asked(values={8: 4.0}), steps=8)
    assert (told(tmp_path)["step"], value_of(tmp_path / "best")) == (8, 8)


def test_a_best_by_other_rows_counts_no_more(parts, tmp_path, capsys):
    go_with(tmp_path, parts, asked(), steps=5)
    go_with(tmp_path, parts, asked(rows="elsewhere"), steps=7)
    assert told(tmp_path) == {"step": 6, "metric": "held_out_score", "value": 2.0, "rows": "elsewhere"}
    assert "best: was the best by held_out_score" in capsys.readouterr().err


def test_a_broken_best_is_refused(parts, tmp_path):
    go_with(tmp_path, parts, asked(), steps=5)
    (tmp_path / "best" / "best.json").write_text(json.dumps({**told(tmp_path), "value": "much"}))
    with pytest.raises(InputError, match=r"best\.json: found value 'much'"):
        go_with(tmp_path, parts, asked(), steps=7)


def test_a_measure_that_is_not_finite_stops_the_run(parts, tmp_path):
    with pytest.raises(DivergedError, match="step 1: held_out_score is not finite"):
        go_with(tmp_path, parts, asked(values={2: np.nan}), steps=7)
    assert not (tmp_path / "best").exists()


def test_the_others_write_nothing(parts, tmp_path, monkeypatch):
    """Of several processes all ask for the adapter, and only the first one touches a file."""
    calls = []
    monkeypatch.setattr(milestones.jax, "process_index", lambda: 1)
    kept = Kept(tmp_path, asked(save=lambda folder, params, notes: calls.append(folder.name)))
    kept.write(6, {}, {"held_out_score": 2.0})
    assert calls == ["6", "best"]
    assert not list(tmp_path.iterdir())


def test_evaluation_and_keeping_change_nothing_in_training(parts, tmp_path):
    plain = go_with(tmp_path / "plain", parts, Milestones(), steps=7)
    looked_at = go_with(tmp_path / "looked at", parts, asked(), steps=7)
    jax.tree.map(np.testing.assert_array_equal, plain, looked_at)
