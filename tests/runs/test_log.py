"""Metric files of resumed and killed runs, and progress where there is no terminal."""

import io
import json

import pytest
from rich.console import Console

from vlm_jax.runs import progress
from vlm_jax.runs.log import MetricLog, read_metrics
from vlm_jax.runs.progress import Meter


def write(folder, first, steps):
    rows = MetricLog(folder, first)
    for step in steps:
        rows.write(step, {"loss": step / 4, "kl": 0.5}, {"data_wait": 0.5})
    rows.close()


def test_rows_are_flushed_and_read_back(tmp_path):
    rows = MetricLog(tmp_path, 0)
    rows.write(0, {"loss": 0.1}, {"data_wait": 0.25})
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 0, "loss": 0.1}]
    assert read_metrics(tmp_path / "speed.jsonl") == [{"step": 0, "data_wait": 0.25}]
    rows.close()
    assert list((tmp_path / "tensorboard").iterdir())


def test_a_resumed_run_has_no_step_twice(tmp_path):
    write(tmp_path, 0, range(5))
    write(tmp_path, 3, range(3, 6))
    rows = read_metrics(tmp_path / "metrics.jsonl")
    assert rows == [{"step": step, "loss": step / 4, "kl": 0.5} for step in range(6)]
    assert [row["step"] for row in read_metrics(tmp_path / "speed.jsonl")] == list(range(6))


def test_a_line_cut_off_by_a_kill_is_left_out(tmp_path):
    write(tmp_path, 0, range(3))
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text()[:-7])
    assert [row["step"] for row in read_metrics(path)] == [0, 1]
    write(tmp_path, 3, [3])
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [0, 1, 3]


def meter_lines(interval, monkeypatch, updates, **options):
    monkeypatch.setattr(progress, "_QUIET_INTERVAL", interval)
    stream = io.StringIO()
    with Meter("sft", 4, console=Console(file=stream, width=20), **options) as meter:
        for done in updates:
            meter.update(done, {"loss": 0.123456, "accuracy": 1.0})
    return stream.getvalue().splitlines()


def test_lines_without_a_terminal(monkeypatch):
    *lines, last = meter_lines(-1.0, monkeypatch, (1, 2, 3, 4))
    assert len(lines) == 3
    for done, line in enumerate(lines, 1):
        assert line.startswith(f"sft: {done}/4, ")
        assert line.endswith("loss 0.123 accuracy 1")
    assert last.startswith("sft: 4/4 done in ")


def test_few_lines_for_many_quick_steps(monkeypatch):
    assert len(meter_lines(10.0, monkeypatch, range(1, 5))) == 1


def test_nothing_to_say_where_nothing_was_done(monkeypatch):
    assert meter_lines(-1.0, monkeypatch, (), done=4) == []


def test_no_success_is_claimed_after_an_error():
    stream = io.StringIO()
    with pytest.raises(TypeError), Meter("sft", 4, console=Console(file=stream)) as meter:
        meter.update("two")
    assert "done" not in stream.getvalue()


def test_a_terminal_gets_a_bar():
    stream = io.StringIO()
    with Meter("sft", 4, console=Console(file=stream, force_terminal=True, width=100)) as meter:
        meter.update(2, {"loss": 0.5})
    assert "2/4 loss 0.5" in stream.getvalue()
