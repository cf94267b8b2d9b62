"""Verbs that train in several processes on this machine: the result of one process that has as many devices."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from vlm_jax.cli import main

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def commands(world, reward, tmp_path_factory):
    """verb -> its arguments but --out; runs of a few steps."""
    folder = tmp_path_factory.mktemp("pairs")
    asked = json.loads((world / "prompts.json").read_text())[:16]
    names = "id", "image", "conversations"
    answers = [("There is a red circle.", "Yes, a blue square and a star."), ("No.", "It is at night.")]
    pairs = [
        {name: row[name] for name in names}
        | {f"output_{n}": {"from": "llm", "value": answers[i % 2][n - 1]} for n in (1, 2)}
        | {"preference": 1 + i % 3 % 2}
        for i, row in enumerate(asked)
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs))
    start = ["--checkpoint", "tiny", "--images", world / "images", "--batch-size", "4", "--save-every", "1"]
    facts = ["--facts", world / "image_to_caption.json"]
    sft = [*start, "--data", world / "instructions.json", "--max-length", "160", "--epochs", "0.6"]
    asked_for = ["--prompts", world / "prompts.json", "--reward", reward, "--resolution", "24", "--steps", "2"]
    lengths = ["--max-new-tokens", "6", "--epochs", "1", "--minibatches", "1"]
    return {
        "sft": sft,
        "sft packed": [*sft, "--batching", "packed"],
        "sft full": [*sft, "--trainable", "full", "--learning-rate", "1e-4"],
        "reward": [*start, *facts, "--preferences", folder / "pairs.json", "--held-out", "4", "--epochs", "1"],
        "ppo": [*start, *facts, *asked_for, *lengths],
    }


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Compiled once."""
    cache = {
        "JAX_ENABLE_COMPILATION_CACHE": "true",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path_factory.mktemp("compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(ROOT),
    }
    # jax sets a level of its own for all that come after it.
    return {name: value for name, value in os.environ.items() if name != "TF_CPP_MIN_LOG_LEVEL"} | cache


@dataclasses.dataclass
class Company:
    """Processes of one run."""

    processes: list[subprocess.Popen]

    def ended(self, timeout: float = 240) -> list[tuple[int, str, str]]:
        """Code, standard output and error lines of each."""
        deadline = time.monotonic() + timeout
        try:
            said = [one.communicate(timeout=deadline - time.monotonic()) for one in self.processes]
        finally:
            for one in self.processes:
                one.kill()
        # What the library that sums on processors says of its own.
        return [
            (one.returncode, "".join(line for line in out.splitlines(True) if "[Gloo]" not in line), error)
            for one, (out, error) in zip(self.processes, said, strict=True)
        ]


@pytest.fixture(scope="module")
def begin(commands, environment):
    """Starts a verb in ``count`` processes with ``devices`` each; ``apart`` has further arguments of single ones."""

    def begin(verb, out, count, devices, *more, only=None, apart=()):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        line = [sys.executable, "-m", "vlm_jax.cli", verb.split()[0], *commands[verb], "--out", out, *more]
        # As in the tests' own process, but for the number of devices: of two the last one counts.
        flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={devices}"
        company = []
        for number in range(count) if only is None else only:
            hosts = ["--hosts.coordinator", f"127.0.0.1:{port}", "--hosts.processes", count, "--hosts.process", number]
            own = dict(apart).get(number, [])
            whole = [str(part) for part in [*line, *(hosts if count > 1 else []), *own]]
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            company.append(subprocess.Popen(whole, env={**environment, "XLA_FLAGS": flags}, **pipes))
        return Company(company)

    return begin


def finished(company):
    ended = company.ended()
    assert [code for code, _, _ in ended] == [0] * len(ended), ended
    assert [out for _, out, _ in ended[1:]] == [""] * (len(ended) - 1), "the first alone speaks"
    assert [error for _, _, error in ended] == [""] * len(ended)


def weights(out):
    files = [*out.glob("adapter/*.safetensors"), *out.glob("checkpoint/*.safetensors")]
    assert files
    return {f"{file.name} {name}": leaf for file in files for name, leaf in load_file(file).items()}


def both(one, other):
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    return [(leaf, second[name]) for name, leaf in first.items()]


def within(devices):
    """How far sums over devices may lie apart: of two numbers there is one, of more it depends on who adds them up."""
    return 0 if devices == 2 else 1e-6


def assert_same(one, other, within):
    for leaf, same in both(one, other):
        np.testing.assert_allclose(leaf, same, rtol=0, atol=within)
    rows = [[json.loads(row) for row in (out / "metrics.jsonl").read_text().splitlines()] for out in (one, other)]
    assert [row["step"] for row in rows[0]] == [row["step"] for row in rows[1]]
    for before, after in zip(*rows, strict=True):
        assert before == pytest.approx(after, rel=1e-4, abs=1e-5)
    answers = [{file.name: file.read_bytes() for file in out.glob("answers/*.jsonl")} for out in (one, other)]
    assert answers[0].keys() == answers[1].keys()
    if within == 0:
        assert answers[0] == answers[1]


def wait_for_step(out, company):
    while not any(path.name.isdigit() for path in out.glob("steps/*")):
        assert all(one.poll() is None for one in company.processes), company.ended()
        time.sleep(0.02)


def test_a_run_without_its_first_process_goes_on_in_one(begin, commands, tmp_path):
    """The others end with one line; whoever goes on needs no other number of processes than it likes."""
    company = begin("sft", tmp_path / "killed", 2, 1, "--mesh.data", "2")
    wait_for_step(tmp_path / "killed", company)
    company.processes[0].send_signal(signal.SIGKILL)
    _, (code, _, error) = company.ended(60)
    assert code != 0
    assert error == "vlm-jax sft: process 0 is gone; the same command goes on from where it was\n"
    alone = [str(part) for part in ["sft", *commands["sft"], "--mesh.data", "2"]]
    for out in ("killed", "straight"):
        main([*alone, "--out", str(tmp_path / out)])
    assert_same(tmp_path / "straight", tmp_path / "killed", 0)


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (0, "not all 3 processes at {} within 4 s (--hosts.wait); expected beside this one, 0, all of 1, 2, started"),
        (1, "nobody who answers at {} within 4 s (--hosts.wait); expected process 0 of 3 there (--hosts.coordinator)"),
    ],
)
def test_processes_that_never_come(number, line, begin, tmp_path):
    company = begin("sft", tmp_path / "out", 3, 1, "--hosts.wait", "4", only=[number])
    ((code, _, error),) = company.ended(60)
    address = company.processes[0].args[company.processes[0].args.index("--hosts.coordinator") + 1]
    assert code == 2
    assert error.startswith(f"vlm-jax sft: found {line.format(address)}")
    assert error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("verb", "count", "devices", "mesh"),
    [
        ("sft", 4, 1, {"data": 2, "fsdp": 2}),
        ("sft packed", 2, 1, {"data": 2}),
        ("sft full", 2, 2, {"fsdp": 2, "tensor": 2}),
        ("reward", 2, 1, {"data": 2}),
        ("reward", 2, 2, {"data": 2, "tensor": 2}),
        ("reward", 4, 1, {"fsdp": 4}),
        ("ppo", 2, 1, {"fsdp": 2}),
        # One part of the rows on both processes' devices.
        ("ppo", 2, 1, {"tensor": 2}),
        ("ppo", 4, 1, {"data": 2, "fsdp": 2}),
    ],
)
def test_equal_to_one_process(verb, count, devices, mesh, begin, tmp_path):
    layout = [part for axis, size in mesh.items() for part in (f"--mesh.{axis}", size)]
    finished(begin(verb, tmp_path / "several", count, devices, *layout))
    finished(begin(verb, tmp_path / "one", 1, count * devices, *layout))
    assert_same(tmp_path / "one", tmp_path / "several", within(count * devices))
    finished(begin(verb, tmp_path / "device", 1, 1))
    # Sums in another order. Adam divides each by its own size: of one that is nearly 0 little is left to compare.
    assert_same(tmp_path / "device", tmp_path / "several", 1e-4)
    apart = [np.abs(leaf - other) for leaf, other in both(tmp_path / "device", tmp_path / "several")]
    assert np.mean(np.concatenate([one.ravel() for one in apart]) > 1e-5) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 4), (4, 1)])
def test_another_number_of_processes_goes_on(before, after, begin, tmp_path):
    company = begin("sft", tmp_path / "changed", before, 4 // before, "--mesh.data", "4")
    wait_for_step(tmp_path / "changed", company)
    company.processes[-1].send_signal(signal.SIGTERM)
    for code, _, error in company.ended():
        assert code == 143
        assert error.startswith("vlm-jax sft: terminated; step ")
        assert error.count("\n") == 1
    finished(begin("sft", tmp_path / "changed", after, 4 // after, "--mesh.data", "4"))
    finished(begin("sft", tmp_path / "straight", 1, 4, "--mesh.data", "4"))
    assert_same(tmp_path / "straight", tmp_path / "changed", within(4))


@pytest.mark.slow
def test_another_process_is_missed_by_its_signs_of_life(begin, tmp_path):
    company = begin("sft", tmp_path / "out", 2, 1, "--mesh.data", "2")
    wait_for_step(tmp_path / "out", company)
    company.processes[1].send_signal(signal.SIGKILL)
    began = time.monotonic()
    (code, _, error), _ = company.ended(100)
    assert time.monotonic() - began < 60
    assert code != 0
    assert error == "vlm-jax sft: no sign of life from process 1; the same command goes on from where it was\n"


@pytest.mark.slow
def test_processes_that_are_not_about_the_same(begin, tmp_path):
    """The one that differs says in what, and the other does not wait for it."""
    company = begin("sft", tmp_path / "out", 2, 1, "--mesh.data", "2", apart=[(1, ["--warmup", "0.5"])])
    (first, _, first_error), (second, _, second_error) = company.ended(120)
    assert (first != 0, second) == (True, 2)
    assert "found settings.warmup 0.03 instead of 0.5" in second_error
    assert "no sign of life from process 1" in first_error
    assert (first_error + second_error).count("\n") == 2
