"""The GPU script's logic at tiny size, and the table of what it wrote."""

import json
import subprocess
import sys

import pytest

from experiments.speed import gpu, gpu_readme

SMALL = gpu.Shapes(small=True)


def test_a_stage_writes_what_it_measured(tmp_path):
    gpu.run_stage("sft_llava", SMALL, tmp_path)
    found = json.loads((tmp_path / "sft_llava.json").read_text())
    assert found["rows"] == 2
    assert found["images"]
    assert found["tokens_per_second"] == pytest.approx(64 / found["seconds"])
    numbers = gpu.decoder_numbers(SMALL.config())
    assert numbers == 2 * (4 * 128**2 + 3 * 128 * 256) + 128 * 512
    assert found["operations_at_4n"] == pytest.approx(4 * numbers * found["tokens_per_second"])


def test_a_stage_that_fails_says_why(tmp_path, monkeypatch):
    def broken(shapes, note, *rest):
        note(rows=1)
        raise MemoryError("no room")

    monkeypatch.setattr(gpu, "decode", broken)
    with pytest.raises(MemoryError):
        gpu.run_stage("decode", SMALL, tmp_path)
    found = json.loads((tmp_path / "decode.json").read_text())
    assert (found["rows"], found["error"]) == (1, "MemoryError: no room")


def test_an_unknown_stage_is_refused():
    command = [sys.executable, "-m", "experiments.speed.gpu", "--small", "--stages", "decod"]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert "no stage decod; there are decode, " in run.stderr


def test_the_table_says_what_was_not_run():
    found = {"sft_4096": {"tokens_per_second": 100.4, "operations_at_4n": 3e12, "peak_gb": 1.25, "first_seconds": 2.0}}
    lines = gpu_readme.table(found).splitlines()
    assert lines[2] == "| LoRA step, 2 rows of 4,096 | 100 tokens/s | 3 TFLOP/s at 4N | 1.2 | 2 |"
    assert all("not run" in line for line in lines[3:])


def test_claims_are_of_what_was_run():
    assert gpu_readme.claims({}) == []
    found = {"card": "H100", "tokens_per_second": 20_000, "operations_at_4n": 380e12}
    tokens, operations = gpu_readme.claims({"sft_4096": found})
    assert (tokens.held, operations.held) == (True, False)
