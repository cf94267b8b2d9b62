"""Quantised kernels against written-out float64 rules, and a whole model over a quantised base."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import norm

from vlm_jax.config import PRESETS
from vlm_jax.models.adapters import init_lora
from vlm_jax.models.llava import forward, init_llava
from vlm_jax.models.quantize import (
    NF4_BLOCK,
    NF4_VALUES,
    Int8Kernel,
    Nf4Kernel,
    dense,
    is_quantized,
    quantize,
    quantize_base,
)
from vlm_jax.parallel.mesh import make_mesh, shardings

SCHEMES = ("int8", "nf4", "nf4_double")
FLOAT32 = jnp.dtype("float32")


def kernel_of(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


def test_nf4_values_are_normal_quantiles():
    """QLoRA, appendix E and eq. 4: 8 quantiles of the upper half, 7 of the lower, and 0, over the largest."""
    offset = 0.9677083
    upper = norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    lower = -norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    values = np.sort(np.concatenate([upper, [0.0], lower]))
    np.testing.assert_allclose(NF4_VALUES, values / values.max(), atol=1e-6)


def test_int8_is_the_rule_written_out():
    kernel = kernel_of(3, 50, 7)
    made = quantize(kernel, "int8")
    wide = np.asarray(kernel, np.float64)
    scale = np.abs(wide).max(1) / 127
    np.testing.assert_allclose(made.scale, scale, rtol=1e-6)
    assert np.abs(np.asarray(made.values, np.float64) - wide / scale[:, None]).max() <= 0.5 + 1e-4
    assert made.values.dtype == jnp.int8


@pytest.mark.parametrize("inputs", [64, 128, 100, 30])
def test_nf4_is_the_nearest_value_of_each_block(inputs):
    kernel = kernel_of(2, inputs, 5)
    back = np.asarray(dense(quantize(kernel, "nf4"), FLOAT32), np.float64)
    wide, values = np.asarray(kernel, np.float64), np.array(NF4_VALUES)
    for start in range(0, inputs, NF4_BLOCK):
        block = wide[:, start : start + NF4_BLOCK]
        absmax = np.abs(block).max(1, keepdims=True)
        nearest = values[np.abs((block / absmax)[..., None] - values).argmin(-1)]
        np.testing.assert_allclose(back[:, start : start + NF4_BLOCK], nearest * absmax, atol=1e-6)


def test_double_quantisation_moves_magnitudes_by_half_a_255th():
    kernel = kernel_of(256, 9)
    one, two = quantize(kernel, "nf4"), quantize(kernel, "nf4_double")
    magnitudes = np.asarray(two.absmax, np.float64) * np.asarray(two.peak, np.float64) / 255
    assert two.absmax.dtype == jnp.uint8
    assert (np.abs(magnitudes - np.asarray(one.absmax)) <= np.asarray(two.peak) / 510 * (1 + 1e-4)).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_extremes(scheme):
    """All-zero columns stay zero, a column's largest magnitude stays, huge and tiny scales lose nothing more."""
    kernel = kernel_of(128, 6).at[:, 0].set(0.0).at[:, 1].mul(1e30).at[:, 2].mul(1e-30)
    back = np.asarray(dense(quantize(kernel, scheme), FLOAT32), np.float64)
    wide = np.asarray(kernel, np.float64)
    assert not back[:, 0].any()
    error = np.sqrt(((back - wide) ** 2).sum(0)[1:] / (wide**2).sum(0)[1:])
    assert (error < (0.01 if scheme == "int8" else 0.13)).all()
    np.testing.assert_allclose(np.abs(back).max(0), np.abs(wide).max(0), rtol=1e-5)


def test_a_quantised_model_is_the_model_of_its_dequantised_weights():
    config = PRESETS["scenes-tiny"]
    base = jax.jit(lambda: init_llava(config, jax.random.key(0)))()
    lora = jax.tree.map(lambda x: x + 0.01, init_lora(config, jax.random.key(1)))
    batch = small_batch(config)
    for scheme, kind in (("int8", Int8Kernel), ("nf4", Nf4Kernel), ("nf4_double", Nf4Kernel)):
        small = jax.jit(quantize_base, static_argnums=1)(base, scheme)
        assert isinstance(small["language"]["blocks"]["mlp"]["down"]["kernel"], kind)
        plain = jax.tree.map(
            lambda leaf: dense(leaf, FLOAT32) if is_quantized(leaf) else leaf, small, is_leaf=is_quantized
        )
        run = jax.jit(forward, static_argnums=0)
        np.testing.assert_allclose(
            run(config, small, lora, batch).hidden, run(config, plain, lora, batch).hidden, atol=2e-5
        )


@pytest.mark.parametrize("scheme", SCHEMES)
def test_every_leaf_of_a_quantised_base_has_a_sharding(scheme):
    config = PRESETS["llava-1.5-7b"]
    shapes = jax.eval_shape(lambda: quantize_base(init_llava(config, jax.random.key(0)), scheme))
    placed = shardings(make_mesh(), shapes)
    for name in ("q", "o"):
        for leaf in jax.tree.leaves(placed["language"]["blocks"]["attention"][name]["kernel"]):
            assert {"fsdp", "tensor"} & set(leaf.spec)
    stored = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(shapes["language"]["blocks"]))
    weights = sum(32 * size for size in (4 * 4096 * 4096, 3 * 4096 * 11008))
    bits = {"int8": 8.01, "nf4": 4.51, "nf4_double": 4.14}[scheme]
    assert stored * 8 / weights == pytest.approx(bits, abs=0.01)


def small_batch(config):
    from vlm_jax.arrays import Batch

    rng = np.random.default_rng(2)
    tokens = rng.integers(4, 500, (2, 20)).astype(np.int32)
    mask = np.zeros((2, 20), bool)
    mask[:, 2:11] = True
    images = rng.integers(0, 256, (2, 48, 48, 3)).astype(np.uint8)
    return Batch(
        tokens=jnp.asarray(tokens),
        attention_mask=jnp.ones((2, 20), bool),
        loss_mask=jnp.zeros((2, 20), bool),
        image_mask=jnp.asarray(mask),
        images=jnp.asarray(images),
    )
