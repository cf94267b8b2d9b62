"""Analytic operations against products counted in what jax traces of the same steps."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from small_models import SMALL, base_weights, make_batch, role_weights

from tpu.flops import flops as counted
from vlm_jax.config import PRESETS
from vlm_jax.models.llava import forward, logits
from vlm_jax.planning import flops
from vlm_jax.planning.chips import peak_flops
from vlm_jax.train.sft import sft_loss

ROWS, WIDTH = 4, 24
FULL = make_batch([WIDTH] * ROWS, WIDTH)
GIVEN = flops.padded(ROWS, WIDTH)


def test_a_forward_pass_is_what_jax_traces_but_for_half_of_attention():
    def whole(base, lora, batch):
        return logits(SMALL, base, forward(SMALL, base, lora, batch).hidden)

    base, lora = base_weights(), role_weights()["lora"]
    needed = flops.forward(SMALL, GIVEN, ROWS * WIDTH)
    assert counted(jax.jit(whole).trace(base, lora, FULL), 1) == needed.total + needed.attention
    bare = flops.forward(SMALL, GIVEN, ROWS * WIDTH, adapted=False)
    assert counted(jax.jit(whole).trace(base, None, FULL), 1) == bare.total + bare.attention


@pytest.mark.parametrize("trainable", ["lora", "full"])
def test_gradients_are_what_jax_traces(trainable):
    """Without recomputation, but of logits; attention, which counts half, is added."""
    base = base_weights()
    params = {"lora": role_weights()["lora"]} if trainable == "lora" else {"base": {"language": base["language"]}}
    gradient = jax.grad(lambda params, batch: sft_loss(SMALL, base, params, batch)[0])
    passes = flops.forward(SMALL, GIVEN, ROWS * WIDTH, adapted=trainable == "lora")
    needed = flops.training(SMALL, GIVEN, ROWS * WIDTH, trainable) + 3 * passes.attention
    needed += flops.recomputed(SMALL, GIVEN, ROWS * WIDTH, trainable)
    # The loss works on one position less; gradients stop at the first block's input.
    assert counted(jax.jit(gradient).trace(params, FULL), 1) == pytest.approx(needed, rel=0.05)


def test_what_is_recomputed():
    parts = flops.forward(SMALL, GIVEN, 0)
    again = {
        remat: flops.recomputed(dataclasses.replace(SMALL, remat=remat), GIVEN, 0, "lora")
        for remat in ("none", "dots", "block")
    }
    assert again == {"none": 0, "dots": parts.attention, "block": parts.blocks + parts.adapters + parts.attention}


def test_the_convention_on_a_7b():
    """2, 4 and 6 operations a weight and token, where adapters, attention and the tower are left aside."""
    config, read = PRESETS["llava-1.5-7b"], flops.Read(1000, 0, 0)
    language = config.language
    weights = language.layers * 4 * language.width**2 + language.layers * 3 * language.width * language.mlp_width
    weights += language.width * language.vocab_size
    assert 6.6e9 < weights < 6.7e9
    assert flops.forward(config, read, 1000, adapted=False).total == 2 * weights * 1000
    assert flops.training(config, read, 1000, "full") == 6 * weights * 1000
    adapters = flops.forward(config, read, 1000).adapters
    assert flops.training(config, read, 1000, "lora") == 4 * weights * 1000 + 3 * adapters


def test_padding_counts_for_the_devices_alone():
    batch = make_batch([3, 9, 5, 24], WIDTH)
    masks = np.asarray(batch.attention_mask), np.asarray(batch.image_mask)
    assert flops.real(SMALL, *masks) == flops.Read(3 + 9 + 5 + 24, 9 + 81 + 25 + 576, 2)
    assert flops.Read(96, 4 * 576, 4) == GIVEN


def test_packed_texts_do_not_see_each_other():
    segments = np.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 0, 0]])
    image = np.zeros((2, 6), bool)
    image[1, :4] = True
    assert flops.real(SMALL, segments > 0, image, segments) == flops.Read(9, 9 + 4 + 16, 1)
    assert flops.padded(2, 6, images=6) == flops.Read(12, 72, 6)


def test_a_step_of_ppo_is_the_sum_of_its_passes():
    lengths, length = np.array([5, 7]), 4
    prompts = flops.of_lengths(lengths, 1)
    whole = flops.of_lengths(lengths + length, 0)
    with_turn = dataclasses.replace(whole, tokens=whole.tokens + 6)
    answers = 2 * length
    read = functools.partial(flops.forward, SMALL)
    passes = [read(whole, answers), read(whole, answers), read(whole, answers), read(whole, 0), read(with_turn, 0)]
    expected = sum(one.total for one in passes) + read(flops.Read(0, 0, 1), 0).tower
    expected += 2 * sum(flops.training(SMALL, whole, logits, "lora") for logits in (answers, 0))
    assert flops.rollout_and_update(SMALL, prompts, 6, 2, length, epochs=2) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "tera"),
    [
        ("TPU v4", 275),
        ("TPU v5 lite", 197),
        ("TPU v5", 459),
        ("TPU v5p", 459),
        ("TPU v6 lite", 918),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H200", 989),
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA GeForce RTX 4090", None),
        ("cpu", None),
    ],
)
def test_peaks_by_kind_of_device(kind, tera):
    assert peak_flops(kind) == (tera and tera * 1e12)
