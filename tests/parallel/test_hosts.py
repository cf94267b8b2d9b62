"""Processes of one run: what options ask for, what a process holds of a batch, and what is said at its end."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from vlm_jax.cli import main
from vlm_jax.data.assemble import stream
from vlm_jax.errors import InputError
from vlm_jax.parallel import compile as placing
from vlm_jax.parallel.agreement import any_process
from vlm_jax.parallel.compile import place_batch
from vlm_jax.parallel.hosts import HostOptions, check, refuse_several, with_environment
from vlm_jax.parallel.last_words import passed_on
from vlm_jax.parallel.local_rows import held_parts, held_rows, parts_with
from vlm_jax.parallel.mesh import batch_sharding, make_mesh

ALL = {"coordinator": "host:1234", "processes": 4, "process": 1}


@pytest.mark.parametrize(
    ("options", "several"),
    [
        ({}, False),
        ({"processes": 1}, False),
        ({"processes": 1, "process": 0, "coordinator": "host:1234"}, False),
        (ALL, True),
        (ALL | {"coordinator": "[::1]:1234"}, True),
        ({"detect": True}, True),
    ],
)
def test_who_asks_for_several_processes(options, several):
    assert check(HostOptions(**options)) is several


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"processes": 4}, "found several processes without --hosts.coordinator (or JAX_COORDINATOR_ADDRESS), "),
        ({"process": 1, "coordinator": "host:1"}, "found several processes without --hosts.processes (or JAX_NUM"),
        ({"process": 0}, "found several processes without --hosts.coordinator (or JAX_COORDINATOR_ADDRESS), --hosts.p"),
        ({"coordinator": "host:1"}, "found several processes without --hosts.processes (or JAX_NUM_PROCESSES), "),
        ({"processes": 1, "process": 1}, "found process 1 of 1; expected 0"),
        (ALL | {"process": 4}, "found process 4 of 4; expected from 0 to 3"),
        (ALL | {"coordinator": "host"}, "found --hosts.coordinator host; expected HOST:PORT of process 0"),
        (ALL | {"coordinator": "host:70000"}, "found --hosts.coordinator host:70000; expected HOST:PORT"),
        ({"detect": True, "processes": 2}, "found --hosts.detect beside --hosts.processes (or JAX_NUM_PROCESSES)"),
    ],
)
def test_half_of_what_several_processes_need(options, line):
    with pytest.raises(InputError) as refused:
        check(HostOptions(**options))
    assert str(refused.value).startswith(line)


def test_the_environment_fills_in_what_is_left_out():
    environment = {"JAX_COORDINATOR_ADDRESS": "there:1", "JAX_NUM_PROCESSES": "8", "JAX_PROCESS_ID": "0"}
    found = with_environment(HostOptions(process=3), environment)
    assert (found.coordinator, found.processes, found.process) == ("there:1", 8, 3)
    # Clusters set an address for all that runs on them.
    alone = {"JAX_COORDINATOR_ADDRESS": "there:1", "JAX_PROCESS_ID": ""}
    assert with_environment(HostOptions(), alone) == HostOptions()
    with pytest.raises(InputError, match="JAX_NUM_PROCESSES='two'; expected a number"):
        with_environment(HostOptions(), {"JAX_NUM_PROCESSES": "two"})


def test_a_verb_of_one_process_refuses_several(monkeypatch, capsys, tmp_path):
    refuse_several({"JAX_NUM_PROCESSES": "1"})
    monkeypatch.setenv("JAX_NUM_PROCESSES", "2")
    with pytest.raises(SystemExit) as stopped:
        main(["scenes", "--out", str(tmp_path / "out")])
    assert stopped.value.code == 2
    wanted = "found several processes (JAX_NUM_PROCESSES=2); expected one, or a verb that trains"
    assert capsys.readouterr().err == f"vlm-jax scenes: {wanted}\n"


@pytest.mark.parametrize(
    ("owners", "parts"),
    [
        # data x fsdp x tensor
        ([[[0], [0]], [[1], [1]]], {0: [0, 1], 1: [2, 3]}),
        # Rows that do not lie side by side.
        ([[[0], [1]], [[0], [1]]], {0: [0, 2], 1: [1, 3]}),
        # One part on two processes.
        ([[[0, 1]], [[0, 1]]], {0: [0, 1], 1: [0, 1]}),
        ([[[0, 0]], [[1, 1]]], {0: [0], 1: [1]}),
        ([[[0], [1], [2], [3]]], {0: [0], 1: [1], 2: [2], 3: [3]}),
    ],
)
def test_parts_of_a_batch_on_a_process(owners, parts):
    assert {process: parts_with(np.array(owners), process) for process in parts} == parts


def test_one_process_holds_all_rows():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    assert held_rows(mesh, 12) == list(range(12))
    with pytest.raises(InputError, match=r"a batch of 10 rows; expected a multiple of 4 \(data x fsdp devices\)"):
        held_rows(mesh, 10)


@pytest.mark.parametrize("mesh", [{"data": 8}, {"data": 2, "tensor": 4}, {"fsdp": 4, "tensor": 2}])
def test_a_batch_is_joined_as_one_process_places_it(mesh):
    mesh = make_mesh(**mesh)
    rows = np.arange(48.0, dtype=np.float32).reshape(16, 3)
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    joined = placing._joined(rows, held_parts(mesh), parts, batch_sharding(mesh))
    placed = place_batch(mesh, rows)
    assert joined.sharding == placed.sharding
    for one, other in zip(joined.addressable_shards, placed.addressable_shards, strict=True):
        assert (one.device, one.index) == (other.device, other.index)
        np.testing.assert_array_equal(one.data, other.data)


def test_weights_that_each_process_brings_lie_as_the_table_says():
    mesh = make_mesh(fsdp=2, tensor=2)
    kernel = {"language": {"head": {"kernel": np.arange(32, dtype=np.float32).reshape(4, 8)}}}
    (whole,) = jax.tree.leaves(placing.place(mesh, kernel))
    spread = placing._spread(jax.tree.leaves(kernel)[0], whole.sharding)
    assert spread.sharding == whole.sharding
    np.testing.assert_array_equal(spread, whole)


def test_processes_share_a_stream():
    """Every sample once, as one process makes it, and with a state that either goes on from."""

    def batches(places):
        made = lambda index, rng: (index, int(rng.integers(1 << 30)))  # noqa: E731
        return iter(stream(7, 4, 5, made, list, places))

    alone, first, second = batches(range(4)), batches([0, 3]), batches([1, 2])
    for _ in range(5):
        whole, ends, middle = next(alone), next(first), next(second)
        assert [ends[0], *middle, ends[1]] == whole
    assert first.get_state() == second.get_state() == alone.get_state()
    second.set_state(alone.get_state())
    assert next(second) == next(alone)[1:3]


FATAL = "F1128 06:00:08.836891   15006 client.h:80] Terminating process because the JAX distributed service "
GONE = f"{FATAL}detected fatal errors. This most likely ... absl::Status: UNAVAILABLE: "
SILENT = "The following tasks are unhealthy (stopped sending heartbeats):\n{}\nThe tasks have crashed. Check ...\n"
TRACE = "\n*** Check failure stack trace: ***\n    @     0x7fbe1e840634  absl::lts_20260107::log_internal\n"


@pytest.mark.parametrize(
    ("said", "line"),
    [
        (f"{GONE}{SILENT.format(1)}{TRACE}", "no sign of life from process 1"),
        (f"{GONE}{SILENT.format(f'2{chr(10)}13')}", "no sign of life from process 2, 13"),
        (f"{GONE}Failed to send RPC to coordination service. Either{TRACE}", "process 0 is gone"),
        (f"{GONE}something else\n", "another process is gone"),
    ],
)
def test_the_end_of_a_process_that_misses_another_is_one_line(said, line):
    reader = subprocess.run(
        [sys.executable, "-m", "vlm_jax.parallel.last_words", "vlm-jax sft"],
        input=f"note: before\nnobody's words\n{said}",
        capture_output=True,
        text=True,
        check=True,
    )
    wanted = f"note: before\nnobody's words\nvlm-jax sft: {line}; the same command goes on from where it was\n"
    assert (reader.stdout, reader.stderr) == ("", wanted)


def test_other_ends_are_passed_on():
    lines = [b"F1128 06:00:08.836891   15006 other.cc:80] Check failed\n", b"Traceback\n", b"no end"]
    assert list(passed_on(lines, "vlm-jax sft")) == lines


def test_an_answer_comes_one_question_later():
    said = iter([False, True, False, False])
    ask = any_process(make_mesh(data=2, fsdp=2, tensor=2), lambda: next(said))
    assert [ask() for _ in range(4)] == [False, False, True, False]
