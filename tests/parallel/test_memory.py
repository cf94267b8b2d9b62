"""Estimates of memory: by hand, never above what the compiler counts, and refused with the figures."""

import dataclasses
from inspect import unwrap

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import SMALL, base_weights, make_batch

from vlm_jax.cli import main
from vlm_jax.config import PRESETS
from vlm_jax.errors import InputError
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.llava import forward
from vlm_jax.parallel import memory
from vlm_jax.parallel.mesh import make_mesh


def test_answering_with_llava_7b_by_hand():
    needs = memory.answering(PRESETS["llava-1.5-7b"], rows=16, width=700, new_tokens=128)
    # Keys and values, 32 layers, 32 heads of 128, 2 bytes each.
    assert needs["keys and values"] == 2 * 32 * 16 * 828 * 32 * 128 * 2
    assert needs["pictures"] == 16 * 336 * 336 * 3
    assert needs["logits"] == 16 * 32000 * 4
    assert needs["attention mask"] == 16 * 700 * 828


def test_training_by_hand():
    config = PRESETS["llava-1.5-7b"]
    needs = memory.training(config, rows=128, width=2048, microbatches=8, trained=1000)
    assert needs["activations"] == (32 * 4096 + 11008) * 16 * 2048 * 2
    assert needs["attention mask"] == 16 * 2048**2
    assert needs["what is trained"] == 4 * 4 * 1000
    assert needs["pictures"] == 128 * 336 * 336 * 3


def test_reading_by_hand():
    needs = memory.reading(PRESETS["llava-1.5-13b"], rows=4, width=1000)
    assert needs["activations"] == 4 * 1000 * (5120 + 13824) * 2
    assert needs["attention mask"] == 4 * 1000 * 1000


def test_bytes_of_arrays_and_of_shapes():
    tree = {"a": np.zeros((3, 5), np.float32), "b": jax.ShapeDtypeStruct((7,), jnp.bfloat16)}
    assert memory.bytes_of(tree) == 3 * 5 * 4 + 7 * 2


def counted(function, *arguments):
    """Bytes that the compiled function holds beside its arguments."""
    found = jax.jit(function).lower(*arguments).compile().memory_analysis()
    return found.temp_size_in_bytes + found.output_size_in_bytes


@pytest.mark.parametrize("width", [16, 64])
def test_an_answer_takes_no_less(width):
    base, batch = base_weights(), make_batch([width] * 4, width, "left")
    sampling = Sampling(max_new_tokens=32)
    needs = memory.answering(SMALL, 4, width, 32)
    # What comes in is an argument.
    del needs["pictures"]
    made = counted(
        lambda base, batch, key: generate(SMALL, base, None, batch, key, sampling), base, batch, jax.random.key(0)
    )
    assert sum(needs.values()) <= made


def test_reading_takes_no_less():
    base, batch = base_weights(), make_batch([48] * 4, 48)
    needs = memory.reading(SMALL, 4, 48)
    del needs["pictures"]
    made = counted(lambda base, batch: forward(SMALL, base, None, batch).hidden, base, batch)
    assert sum(needs.values()) <= made


def test_a_backward_pass_takes_no_less():
    config = dataclasses.replace(SMALL, remat="block")
    base, batch = base_weights(), make_batch([48] * 4, 48)
    needs = memory.training(config, 4, 48, 1, 0)
    del needs["pictures"]

    def loss(base, batch):
        return forward(config, base, None, batch).hidden.sum()

    assert sum(needs.values()) <= counted(jax.grad(loss), base, batch)


@pytest.fixture
def have(monkeypatch):
    def set_to(size):
        monkeypatch.setattr(memory, "available", lambda mesh: size)

    return set_to


def test_what_does_not_fit_is_refused_with_the_figures(have):
    have(23_400_000_000)
    with pytest.raises(InputError) as stopped:
        memory.require_fits(
            make_mesh(), {"weights": 4_100_000_000, "keys and values": 80_100_000_000}, "a smaller batch size"
        )
    assert str(stopped.value) == (
        "found a need for at least 84.2 GB of memory (keys and values 80.1, weights 4.1); expected at most the 23.4 GB "
        "that there are: a smaller batch size"
    )


def test_what_fits_and_what_nobody_knows_is_not(have):
    have(10)
    memory.require_fits(make_mesh(), {"weights": 10})
    have(None)
    memory.require_fits(make_mesh(), {"weights": 10**20})


def test_a_world_that_no_machine_holds(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(memory, "host_memory", lambda: 20_000_000_000)
    with pytest.raises(SystemExit) as stopped:
        main(["scenes", "--out", str(tmp_path / "out"), "--train", "10000000", "--prompts", "10000000", "--test", "9"])
    assert stopped.value.code == 2
    assert capsys.readouterr().err == (
        "vlm-jax scenes: found a need for at least 20.0 GB of memory (scenes 20.0); expected at most the 20.0 GB that "
        "there are: fewer scenes\n"
    )
    assert not list(tmp_path.iterdir())


class Device:
    """An accelerator that says how much it has."""

    def __init__(self, limit, platform="gpu"):
        self.platform, self._limit = platform, limit

    def memory_stats(self):
        return None if self._limit is None else {"bytes_limit": self._limit}


class Mesh:
    def __init__(self, *devices):
        self.devices = np.array(devices, object)


@pytest.mark.parametrize(("limits", "found"), [((80, 80), 160), ((80, None), None), ((None,), None)])
def test_accelerators_say_it_themselves(limits, found):
    assert unwrap(memory.available)(Mesh(*map(Device, limits))) == found


def test_devices_on_one_processor_share_its_memory():
    assert memory.available(make_mesh()) == memory.available(make_mesh(data=2)) == memory.host_memory()
    assert memory.host_memory() > 10**8


@pytest.mark.parametrize(
    ("limit", "swap", "found"),
    [
        ("max\n", "", 1000),
        ("400\n", "", 400),
        ("400\n", "SwapTotal:      1 kB\n", 1424),
        ("5000\n", "", 1000),
        (None, "", 1000),
    ],
)
def test_a_container_has_less_than_its_machine(limit, swap, found, monkeypatch, tmp_path):
    files = {"/sys/fs/cgroup/memory.max": limit or "", "/proc/meminfo": f"MemTotal: 9 kB\n{swap}"}
    monkeypatch.setattr(memory, "_physical", lambda: 1000)
    monkeypatch.setattr(memory, "_said", lambda file: files.get(str(file), ""))
    assert memory.host_memory() == found


def test_nothing_is_known_of_other_systems(monkeypatch):
    monkeypatch.setattr(memory, "_physical", lambda: None)
    assert memory.host_memory() is None
