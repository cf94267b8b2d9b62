"""Speed from a clock that is set by hand, and work counted on the host."""

import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from small_models import make_batch, make_pairs, make_prompts

from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.parallel.on_host import on_host
from vlm_jax.planning import flops
from vlm_jax.runs import metering
from vlm_jax.runs.metering import Clock, peak_memory, utilisation
from vlm_jax.runs.work import Work, ppo_work, reward_work, sft_work


@pytest.fixture
def now(monkeypatch):
    """Seconds that pass."""
    time = [100.0]
    monkeypatch.setattr(metering.time, "perf_counter", lambda: time[0])
    return time


def batches(now, *waits):
    for wait in waits:
        now[0] += wait
        yield wait


def test_speed_between_two_lines(now):
    clock = Clock(make_mesh(), lambda batch: lambda metrics: Work(2, 10 + metrics["length"], 16))
    rows = batches(now, 1, 0.5, 1.5, 2)

    def step(seconds):
        clock.next_batch(rows)
        now[0] += seconds
        clock.stepped({"loss": jnp.zeros(())})

    step(5)
    first = clock.read({"length": 0.0})
    assert first["first_step_seconds"] == 6
    assert first.keys() == {"first_step_seconds", "host_peak_bytes"}
    step(2)
    step(1)
    told = clock.read({"length": 1.0})
    del told["host_peak_bytes"]
    assert told == {
        "step_seconds": 2.5,
        "data_wait": 0.4,
        "tokens_per_second": 22 / 5,
        "positions_per_second": 32 / 5,
        "samples_per_second": 4 / 5,
    }
    # What comes between is no work of a step.
    now[0] += 1000
    clock.restart()
    step(2)
    assert clock.read({"length": 0.0})["tokens_per_second"] == 10 / 4


def test_without_a_count_there_is_time_alone(now):
    clock = Clock(make_mesh(), None)
    rows = batches(now, 1, 1)
    for _ in range(2):
        clock.next_batch(rows)
        clock.stepped({})
    assert clock.read({}).keys() == {"first_step_seconds", "host_peak_bytes", "step_seconds", "data_wait"}


def test_peak_memory_of_this_process():
    said = int(re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())[1])
    assert 0 < said <= peak_memory(make_mesh())["host_peak_bytes"] // 1024


def test_shares_of_the_published_peak(monkeypatch):
    mesh = make_mesh(fsdp=4)
    work = Work(model_flops=8e12, hardware_flops=16e12)
    assert utilisation(mesh, work, 2.0) == {}, "nobody publishes one for processors"
    monkeypatch.setattr(metering, "peak_flops", lambda kind: 10e12)
    assert utilisation(mesh, work, 2.0) == {"mfu": 0.1, "hfu": 0.2}
    assert utilisation(mesh, Work(model_flops=8e12), 2.0) == {"mfu": 0.1}


def test_work_of_batches(config):
    lengths = [7, 12, 9, 20]
    batch, read = on_host(make_batch(lengths, 24)), flops.of_lengths(np.array(lengths), 2)
    work = sft_work(config, "lora")(batch)({})
    assert (work.samples, work.tokens, work.positions) == (4, 48, 96)
    assert work.model_flops == flops.training(config, read, 48, "lora")
    given = flops.padded(4, 24)
    again = flops.recomputed(config, given, 96, "lora")
    assert work.hardware_flops == flops.training(config, given, 96, "lora") + again
    assert sft_work(config, "full")(batch)({}).model_flops == flops.training(config, read, 48, "full")
    pairs = reward_work(config)(on_host(make_pairs([7, 12], 24)))({})
    assert (pairs.samples, pairs.tokens, pairs.positions) == (2, 38, 96)
    prompts = on_host(make_prompts([7, 12], 16))
    work = ppo_work(config, 2)(prompts)({"length": 2.5})
    assert (work.samples, work.tokens, work.positions, work.hardware_flops) == (2, 24, 0, 0)
    suffix, images = int(prompts.suffix_mask.sum()), flops.of_lengths(np.array([7, 12]), 1)
    assert work.model_flops == flops.rollout_and_update(config, images, suffix, 2, 2.5, 2)
