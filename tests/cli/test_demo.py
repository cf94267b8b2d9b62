"""The whole demo in miniature, on the model that ships with the package."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from vlm_jax.commands import demo
from vlm_jax.errors import InputError

MEASURES = {
    "pope_f1", "pope_accuracy", "chair_i", "chair_s", "recall", "mmhal_score", "mmhal_hallucination_rate",
    "mean_length", "reward_accuracy",
}  # fmt: skip
SMALL = demo.Options(preference=160, prompts=64, test=24, ppo_steps=2, reward_epochs=0.5)


def in_a_process(*arguments):
    """The console script without the tests' eight devices, which its workers would inherit."""
    clean = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    command = [sys.executable, "-m", "vlm_jax.cli", "demo", *map(str, arguments)]
    return subprocess.run(command, env=clean, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_demo_writes_what_it_promises_and_knows_when_it_is_done(tmp_path):
    out = tmp_path / "demo"
    sizes = ("preference", "prompts", "test", "ppo-steps", "reward-epochs")
    options = [f"--{name}={getattr(SMALL, name.replace('-', '_'))}" for name in sizes]
    first = in_a_process("--out", out, *options)
    assert first.returncode == 0, first.stderr[-3000:]
    results = json.loads((out / "results.json").read_text())
    assert set(results) >= {"models", "seed", "wall_s", "versions"}
    assert set(results["models"]) == {"sft", "rlhf", "fact_rlhf"}
    for figures in results["models"].values():
        assert set(figures) == MEASURES
        assert all(0 <= figures[name] <= 1 for name in MEASURES - {"mmhal_score", "mean_length"})
    page = (out / "report.html").read_text()
    assert "Fact-RLHF" in page
    assert "<script" not in page

    again = in_a_process("--out", out, *options)
    assert again.returncode == 0
    assert "finished already" in again.stdout
    assert json.loads((out / "results.json").read_text()) == results

    other = in_a_process("--out", out, *options, "--seed", "1")
    assert other.returncode == 2
    assert "seed 0 instead of 1" in other.stderr
    assert json.loads((out / "results.json").read_text()) == results


@pytest.mark.parametrize("sizes", [{"preference": 30}, {"test": 0}, {"test": 5}])
def test_sizes_that_cannot_work_are_refused_before_anything_is_drawn(sizes, tmp_path):
    with pytest.raises(InputError, match="expected at least"):
        demo.run(dataclasses.replace(SMALL, out=tmp_path / "demo", **sizes))
    assert not (tmp_path / "demo").exists()
