"""Runs that are killed with SIGKILL again and again, wherever they are, end as one that nobody touched, bit for bit."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from safetensors.numpy import load_file

from vlm_jax.checkpoints.hf_llava import save_llava
from vlm_jax.cli import main
from vlm_jax.config import PRESETS
from vlm_jax.models.llava import init_llava

KILLS = 20
CONFIG = PRESETS["scenes-tiny"]
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def commands(tmp_path_factory, checkpoint, world, adapter):
    """verb -> its arguments but --out; many saves, so that kills often fall into one."""
    main(["annotate", "--checkpoint", str(checkpoint), "--world", str(world), "--max-new-tokens", "6"])
    start = ["--checkpoint", checkpoint, "--images", world / "images", "--save-every", "1"]
    facts = ["--facts", world / "image_to_caption.json"]
    pairs = ["--preferences", world / "preferences.json", "--held-out", "2", "--batch-size", "4", "--epochs", "5"]
    prompts = ["--prompts", world / "prompts.json", "--reward", adapter, "--batch-size", "4", "--steps", "25"]
    return {
        "sft": [*start, "--data", world / "instructions.json", "--batch-size", "4", "--epochs", "4"],
        "reward": [*start, *facts, *pairs],
        "ppo": [*start, *facts, *prompts, "--max-new-tokens", "6", "--epochs", "1"],
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Compiled once: what is killed is training, not the compiler."""
    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "",
    }
    return {**os.environ, **cache}


def begin(verb, arguments, out, environment):
    line = [sys.executable, "-m", "vlm_jax.cli", verb, *map(str, arguments), "--out", str(out)]
    return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def finish(process):
    error = process.communicate()[1].decode()
    assert process.returncode == 0, error[-2000:]


def final_state(out):
    """Newest saved step as bytes of arrays by name: parameters, optimizer and all."""
    newest = max((out / "steps").iterdir(), key=lambda path: int(path.name))
    leaves = jax.tree_util.tree_leaves_with_path(ocp.load(newest))
    return newest.name, {jax.tree_util.keystr(path): np.asarray(leaf).tobytes() for path, leaf in leaves}


@pytest.mark.slow
@pytest.mark.kill
@pytest.mark.parametrize("verb", ["sft", "reward", "ppo"])
def test_kills_leave_no_trace(verb, commands, environment, tmp_path):
    arguments = commands[verb]
    finish(begin(verb, arguments, tmp_path / "first", environment))
    began = time.monotonic()
    finish(begin(verb, arguments, tmp_path / "straight", environment))
    whole = time.monotonic() - began
    moments, killed, whole_runs, steps, in_saves = random.Random(7), 0, 0, [], 0
    while killed < KILLS:
        process = begin(verb, arguments, tmp_path / "killed", environment)
        try:
            # Past the start of Python and jax, which saves nothing, in most cases.
            process.wait(timeout=moments.uniform(0.3 * whole, whole))
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            killed += 1
        error = process.communicate()[1].decode()
        assert process.returncode in (0, -signal.SIGKILL), error[-2000:]
        saved = tmp_path / "killed" / "steps"
        steps.append(sorted(path.name for path in saved.iterdir()) if saved.exists() else [])
        in_saves += any("tmp" in name for name in steps[-1])
        if (tmp_path / "killed" / "adapter").exists():
            # Done before the last kill: the rest of the kills falls on a new run.
            assert_same_result(tmp_path / "straight", tmp_path / "killed")
            (tmp_path / "killed").rename(tmp_path / f"whole-{whole_runs}")
            whole_runs += 1
    assert len({tuple(names) for names in steps}) > 2, "kills at different moments"
    print(f"{verb}: {killed} kills, {in_saves} of them in a save, {whole_runs} runs ended between them")
    finish(begin(verb, arguments, tmp_path / "killed", environment))
    assert_same_result(tmp_path / "straight", tmp_path / "killed")


def assert_same_result(straight, other):
    one, two = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (straight, other))
    assert {name: tensor.tobytes() for name, tensor in one.items()} == {n: t.tobytes() for n, t in two.items()}
    assert final_state(straight) == final_state(other)
    rows = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (straight, other)]
    assert rows[0] == rows[1]
    assert len({json.loads(row)["step"] for row in rows[1]}) == len(rows[1])
    for answers in sorted((straight / "answers").glob("*.jsonl")):
        assert answers.read_bytes() == (other / "answers" / answers.name).read_bytes()


@pytest.mark.slow
@pytest.mark.kill
def test_a_conversion_survives_kills(environment, checkpoint, tmp_path):
    deep = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, layers=200))
    save_llava(tmp_path / "deep", deep, jax.jit(lambda: init_llava(deep, jax.random.key(0)))(), checkpoint)

    def begin_converting(target):
        line = [sys.executable, "-m", "vlm_jax.cli", "convert", tmp_path / "deep", target, "--quantize", "nf4"]
        return subprocess.Popen(line, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    finish(begin_converting(tmp_path / "straight"))
    log, began = tmp_path / ".killed.converting" / "done.jsonl", []
    rows = 0
    for _ in range(5):
        process = begin_converting(tmp_path / "killed")
        # Some way into what this process itself writes.
        while process.poll() is None and (log.read_bytes().count(b"\n") if log.exists() else 0) < rows + 100:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not (tmp_path / "killed").exists()
        rows = log.read_bytes().count(b"\n")
        began.append(rows)
    assert began == sorted(set(began)), "each went on from where the last one was"
    finish(begin_converting(tmp_path / "killed"))
    for path in (tmp_path / "straight").iterdir():
        assert path.read_bytes() == (tmp_path / "killed" / path.name).read_bytes(), path.name


@pytest.mark.slow
@pytest.mark.kill
def test_sigterm_ends_cleanly(commands, environment, tmp_path):
    process = begin("sft", commands["sft"], tmp_path / "run", environment)
    steps = tmp_path / "run" / "steps"
    while process.poll() is None and not (steps.exists() and any(path.name.isdigit() for path in steps.iterdir())):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    error = process.communicate()[1].decode()
    assert process.returncode == 143, error[-2000:]
    assert "the same command goes on from where it was" in error
    finish(begin("sft", commands["sft"], tmp_path / "run", environment))


@pytest.mark.slow
@pytest.mark.kill
def test_sigterm_ends_the_demo_with_both_its_workers(environment, tmp_path):
    sizes = ["--preference", "160", "--prompts", "64", "--test", "24", "--ppo-steps", "2", "--reward-epochs", "4"]
    process = begin("demo", sizes, tmp_path / "demo", environment)
    while process.poll() is None and not list((tmp_path / "demo").glob("*/reward/metrics.jsonl")):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    error = process.communicate(timeout=120)[1].decode()
    assert process.returncode == 143, error[-2000:]
    assert "the same command goes on from where it was" in error
    assert "Traceback" not in error
    assert list((tmp_path / "demo").glob("*/reward/steps/*")), "saved before its time"
    assert not (tmp_path / "demo" / "sft").exists(), "the third branch, which waited for a worker, was not begun"
    finish(begin("demo", sizes, tmp_path / "demo", environment))
