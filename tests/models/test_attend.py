"""Attention by every implementation that runs here, against a float64 formula: ragged, padded on both sides, packed."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention

from vlm_jax.errors import InputError
from vlm_jax.models import attend as attend_module
from vlm_jax.models.attend import Visible, attend, implementation_for


def written_out(q, k, v, allowed):
    """softmax(q k / sqrt(h)) v in float64, k and v repeated for grouped heads; rows that read nothing are 0."""
    q, k, v = (np.asarray(x, np.float64) for x in (q, k, v))
    k, v = (np.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = np.einsum("btnh,bsnh->bnts", q, k) / np.sqrt(q.shape[-1])
    weights = np.where(allowed[:, None], np.exp(scores - scores.max(-1, keepdims=True)), 0)
    weights /= np.maximum(weights.sum(-1, keepdims=True), 1e-300)
    return np.einsum("bnts,bsnh->btnh", weights, v)


def of_shape(rows, width, heads, kv_heads, head_width, seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    shapes = [(rows, width, n, head_width) for n in (heads, kv_heads, kv_heads)]
    return [2 * jax.random.normal(key, shape) for key, shape in zip(keys, shapes, strict=True)]


# Whole, padded on the left, on the right, with a gap, packed with two texts, a single real position.
SEGMENTS = np.array(
    [
        [1] * 150,
        [0] * 70 + [1] * 80,
        [1] * 33 + [0] * 117,
        [1] * 60 + [0] * 40 + [1] * 50,
        [1] * 40 + [2] * 90 + [0] * 20,
        [0] * 149 + [1],
    ],
    np.int32,
)


def allowed_by(segments, causal):
    same = segments[:, :, None] == segments[:, None, :]
    return same & np.tri(segments.shape[1], dtype=bool) if causal else same


@pytest.fixture
def interpreted(monkeypatch):
    """TPU kernels run step by step on the CPU."""
    make = functools.partial(splash_attention.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha", make)


@pytest.mark.parametrize("causal", [True, False], ids=["causal", "full"])
@pytest.mark.parametrize(("heads", "kv_heads", "head_width"), [(2, 2, 128), (4, 2, 64)], ids=["wide", "grouped"])
@pytest.mark.parametrize("implementation", ["xla", "splash"])
def test_is_the_formula(implementation, heads, kv_heads, head_width, causal, interpreted):
    q, k, v = of_shape(len(SEGMENTS), SEGMENTS.shape[1], heads, kv_heads, head_width)
    visible = Visible(causal=causal, segments=jnp.asarray(SEGMENTS))
    with jax.default_matmul_precision("highest"):
        got = jax.jit(lambda *x: attend(*x, visible, implementation))(q, k, v)
    assert np.isfinite(got).all()
    real = SEGMENTS > 0
    wanted = written_out(q, k, v, allowed_by(SEGMENTS, causal))
    np.testing.assert_allclose(np.asarray(got)[real], wanted[real], atol=2e-5)


def test_gradients_of_splash_are_those_of_xla(interpreted):
    arrays = of_shape(len(SEGMENTS), SEGMENTS.shape[1], 2, 2, 128)
    visible = Visible(causal=True, segments=jnp.asarray(SEGMENTS))
    weights = jnp.where((SEGMENTS > 0)[..., None, None], jax.random.normal(jax.random.key(9), arrays[0].shape), 0)

    def gradients(implementation):
        def total(*x):
            return (attend(*x, visible, implementation) * weights).sum()

        with jax.default_matmul_precision("highest"):
            return jax.jit(jax.grad(total, argnums=(0, 1, 2)))(*arrays)

    for ours, wanted in zip(gradients("splash"), gradients("xla"), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=2e-4)


def test_splash_takes_no_mask():
    q, k, v = of_shape(1, 4, 2, 2, 128)
    with pytest.raises(ValueError, match="no mask"):
        attend(q, k, v, Visible(mask=jnp.ones((1, 1, 4, 4), bool)), "splash")


def test_a_missing_cudnn_is_named():
    q, k, v = (x.astype(jnp.bfloat16) for x in of_shape(1, 4, 2, 2, 64))
    with pytest.raises(InputError, match=r"no cuDNN that JAX can use; expected .*vlm-jax\[gpu\].*'xla'"):
        attend(q, k, v, Visible(causal=True), "cudnn")


@pytest.mark.parametrize(
    ("platform", "dtype", "head_width", "wanted"),
    [
        ("cpu", "bfloat16", 128, "xla"),
        ("gpu", "bfloat16", 128, "cudnn"),
        ("gpu", "bfloat16", 64, "cudnn"),
        ("gpu", "float32", 128, "xla"),
        ("gpu", "bfloat16", 160, "xla"),
        ("tpu", "bfloat16", 128, "splash"),
        ("tpu", "float32", 64, "splash"),
        ("tpu", "bfloat16", 32, "xla"),
    ],
)
def test_the_platform_chooses(platform, dtype, head_width, wanted):
    assert implementation_for("auto", platform, dtype, head_width) == wanted


@pytest.mark.parametrize(
    ("asked", "platform", "dtype", "head_width", "message"),
    [
        ("cudnn", "cpu", "bfloat16", 128, "'cudnn' on cpu; expected a GPU, or attention 'xla'"),
        ("cudnn", "gpu", "float32", 128, "'cudnn' in float32; expected bfloat16"),
        ("cudnn", "gpu", "bfloat16", 100, "heads of 100; expected heads of at most 128, a multiple of 8"),
        ("splash", "gpu", "bfloat16", 128, "'splash' on gpu; expected a TPU"),
        ("splash", "tpu", "bfloat16", 32, "heads of 32; expected heads of 64 or a multiple of 128"),
    ],
)
def test_what_is_asked_for_must_be_possible(asked, platform, dtype, head_width, message):
    with pytest.raises(InputError, match=message):
        implementation_for(asked, platform, dtype, head_width)


def test_xla_is_always_possible():
    assert implementation_for("xla", "tpu", "float32", 7) == "xla"


@pytest.fixture
def fused(monkeypatch):
    """Models take the way of a GPU: causality in place of a mask. XLA computes it."""
    plain = jax.nn.dot_product_attention

    def dot_product_attention(*arrays, implementation=None, **keywords):
        return plain(*arrays, **keywords)

    monkeypatch.setattr(attend_module.jax.nn, "dot_product_attention", dot_product_attention)
    monkeypatch.setattr("vlm_jax.models.llava.attention_of", lambda config, width: "cudnn")


def outputs(config, base, adapter, batch):
    from vlm_jax.models.llava import Capture, Edit, forward

    where = jnp.zeros(batch.tokens.shape, bool).at[:, 7].set(True)
    edit = Edit((2,), where, lambda hidden: hidden * 0.5)
    capture = Capture((0, 1, 3), ("residual", "mlp"))

    def loss(adapter):
        hidden = forward(config, base, adapter, batch).hidden
        return jnp.where(batch.attention_mask[..., None], hidden**2, 0).sum()

    changed = forward(config, base, adapter, batch, capture=capture, edit=edit)
    return changed.hidden, changed.states, jax.jit(jax.grad(loss))(adapter)


@pytest.fixture
def gapped(batch):
    """The batch of every kind of row, one of them with a gap between its texts."""
    return batch.replace(attention_mask=batch.attention_mask.at[2, 6:9].set(False))


def test_causality_alone_changes_nothing_real(tiny, base, adapter, gapped, request):
    wanted = outputs(tiny, base, adapter, gapped)
    request.getfixturevalue("fused")
    got = outputs(tiny, base, adapter, gapped)
    real = np.asarray(gapped.attention_mask)
    np.testing.assert_allclose(got[0][real], wanted[0][real], atol=1e-5)
    for site in wanted[1]:
        np.testing.assert_allclose(got[1][site][:, real], wanted[1][site][:, real], atol=1e-5)
    for ours, theirs in zip(*map(jax.tree.leaves, (got[2], wanted[2])), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("remat", ["none", "dots", "block"])
def test_unrolled_blocks_are_the_scanned_ones(tiny, base, adapter, batch, remat):
    scanned = outputs(tiny, base, adapter, batch)
    unrolled = outputs(dataclasses.replace(tiny, unroll=True, remat=remat), base, adapter, batch)
    for ours, theirs in zip(*map(jax.tree.leaves, (unrolled, scanned)), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5, rtol=1e-4)


def test_dots_keep_the_products_and_nothing_else(tiny, base, adapter, batch):
    """Memory between the forward and the backward pass: all of it, the named products, or block inputs alone."""
    from vlm_jax.models.llava import forward

    def kept(remat):
        config = dataclasses.replace(tiny, remat=remat)
        backward = jax.vjp(lambda adapter: forward(config, base, adapter, batch).hidden, adapter)[1]
        return sum(leaf.nbytes for leaf in jax.tree.leaves(backward))

    everything, products, inputs = map(kept, ("none", "dots", "block"))
    assert inputs < products < everything
    rows, width = batch.tokens.shape
    language = tiny.language
    named = 3 * language.width + 2 * language.kv_heads * language.head_width + 2 * language.mlp_width
    assert products - inputs == pytest.approx(4 * language.layers * rows * width * named, rel=0.05)
