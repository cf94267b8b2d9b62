"""Softmax attention behind one function, with named implementations.

    xla     every platform and type; the scores of all heads, [b, n, t, s], exist at one time
    cudnn   NVIDIA's fused kernel: bfloat16 or float16, heads of at most 128
    splash  the Pallas kernel for TPUs that comes with JAX: heads of 64, or of a multiple of 128

Neither kernel holds the scores. Which one a model uses is decided once, by :func:`implementation_for`; nothing falls
back from one to another afterwards.
"""

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vlm_jax.errors import InputError
from vlm_jax.parallel.mesh import by_rows_and_heads

Implementation = Literal["xla", "cudnn", "splash"]

# What a backward pass may keep of a block, by the names that blocks give it (``layers.scan_blocks``).
KEPT = "kept"
# Positions that a splash kernel works on at a time; widths are filled up to a multiple.
_BLOCK, _LARGE_BLOCK = 128, 512


class Visible(NamedTuple):
    """What queries may read; each part that is not None takes away from it.

    Attributes:
        mask: True where a query may read a key.
        causal: Key j is read by queries i >= j alone; t equals s.
        segments: Queries read keys of their own number alone; t equals s.
    """

    mask: Bool[Array, "#b 1 t s"] | None = None
    causal: bool = False
    segments: Int32[Array, "b t"] | None = None


def implementation_for(
    asked: Literal["auto"] | Implementation, platform: str, dtype: str, head_width: int
) -> Implementation:
    """The implementation that a model of this shape uses on a platform.

    Args:
        asked: By name, or left to the platform: ``cudnn`` on GPUs, ``splash`` on TPUs where the shape allows it.
        platform: As JAX names it: cpu, gpu or tpu.
        dtype: Of the arithmetic.
        head_width: Of the heads.

    Raises:
        InputError: The one that was asked for cannot do this.
    """
    if asked == "auto":
        fused = {"gpu": "cudnn", "tpu": "splash"}.get(platform, "xla")
        return "xla" if _obstacle(fused, platform, dtype, head_width) else fused
    if obstacle := _obstacle(asked, platform, dtype, head_width):
        raise InputError(f"attention {asked!r} {obstacle[0]}", f"{obstacle[1]}, or attention 'xla'")
    return asked


def _obstacle(name: Implementation, platform: str, dtype: str, head_width: int) -> tuple[str, str] | None:
    """What an implementation cannot do, and what it can; None where nothing is in its way."""
    if name == "cudnn":
        if platform != "gpu":
            return f"on {platform}", "a GPU"
        if dtype not in ("bfloat16", "float16"):
            return f"in {dtype}", "bfloat16"
        if head_width % 8 or head_width > 128:
            return f"with heads of {head_width}", "heads of at most 128, a multiple of 8"
    if name == "splash":
        if platform != "tpu":
            return f"on {platform}", "a TPU"
        if head_width != 64 and head_width % 128:
            return f"with heads of {head_width}", "heads of 64 or a multiple of 128"
    return None


def attend(
    q: Float[Array, "b t n h"],
    k: Float[Array, "b s k h"],
    v: Float[Array, "b s k h"],
    visible: Visible,
    implementation: Implementation,
) -> Float[Array, "b t n h"]:
    """softmax(q k / sqrt(h)) v over the visible keys, the softmax in float32; k heads serve n / k query heads each.

    What queries get that see no key means nothing, but is finite.
    """
    if implementation == "splash":
        return _splash(q, k, v, visible)
    mask = visible.mask
    if visible.segments is not None:
        if implementation == "cudnn" and q.shape[1] % 2:
            return _of_even_width(q, k, v, visible)
        same = (visible.segments[:, :, None] == visible.segments[:, None, :])[:, None]
        mask = same if mask is None else mask & same
    if implementation == "xla":
        if visible.causal:
            causal = jnp.tri(q.shape[1], dtype=bool)[None, None]
            mask = causal if mask is None else mask & causal
        return _xla(q, k, v, mask)
    try:
        return jax.nn.dot_product_attention(q, k, v, mask=mask, is_causal=visible.causal, implementation=implementation)
    except RuntimeError as error:
        if "cuDNN" not in str(error):
            raise
        wanted = "the one that comes with `pip install 'vlm-jax[gpu]'`, or attention 'xla'"
        raise InputError("no cuDNN that JAX can use", wanted) from None


def _of_even_width(q: Array, k: Array, v: Array, visible: Visible) -> Array:
    """With one position more, a segment of its own: under a mask cuDNN has no gradients of odd widths."""
    more = [jnp.pad(x, ((0, 0), (0, 1), (0, 0), (0, 0))) for x in (q, k, v)]
    mask = visible.mask
    if mask is not None:
        mask = jnp.pad(mask, ((0, 0), (0, 0), (0, 1), (0, 1)))
    segments = jnp.pad(visible.segments, ((0, 0), (0, 1)), constant_values=-1)
    return attend(*more, Visible(mask, visible.causal, segments), "cudnn")[:, :-1]


@jax.custom_vjp
def _xla(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    return _mixed(_weights(q, k, mask), v)


def _weights(q: Array, k: Array, mask: Array | None) -> Float[Array, "b k g t s"]:
    """What each query takes of each key; g = n / k query heads read one head of keys."""
    scores = jnp.einsum("btkgh,bskh->bkgts", _grouped(q, k), k, preferred_element_type=jnp.float32)
    scores = scores * q.shape[-1] ** -0.5
    if mask is not None:
        scores = jnp.where(mask[:, :, None], scores, jnp.finfo(jnp.float32).min)
    return jax.nn.softmax(scores, -1).astype(q.dtype)


def _mixed(weights: Float[Array, "b k g t s"], v: Array) -> Float[Array, "b t n h"]:
    mixed = jnp.einsum("bkgts,bskh->btkgh", weights, v)
    return mixed.reshape(*mixed.shape[:2], -1, mixed.shape[-1])


def _grouped(q: Array, k: Array) -> Float[Array, "b t k g h"]:
    return q.reshape(*q.shape[:2], k.shape[2], -1, q.shape[-1])


def _xla_forward(q: Array, k: Array, v: Array, mask: Array | None) -> tuple[Array, tuple[Array, Array, Array, Array]]:
    weights = _weights(q, k, mask)
    return _mixed(weights, v), (q, k, v, weights)


def _xla_backward(kept: tuple[Array, Array, Array, Array], gradient: Array) -> tuple[Array, Array, Array, None]:
    """By hand, because one array of weights is all that it takes; what JAX derives keeps three and turns them around.

    With weights p and the result's gradient g: dv = p' g, ds = p (g v' - sum(p g v')), dq = ds k / sqrt(h),
    dk = ds' q / sqrt(h).
    """
    q, k, v, weights = kept
    gradient = _grouped(gradient, k)
    by_key = jnp.einsum("btkgh,bskh->bkgts", gradient, v, preferred_element_type=jnp.float32)
    by_key = weights * (by_key - (by_key * weights).sum(-1, keepdims=True)) * q.shape[-1] ** -0.5
    by_key = by_key.astype(q.dtype)
    of_query = jnp.einsum("bkgts,bskh->btkgh", by_key, k).reshape(q.shape)
    of_key = jnp.einsum("bkgts,btkgh->bskh", by_key, _grouped(q, k))
    return of_query, of_key, jnp.einsum("bkgts,btkgh->bskh", weights, gradient), None


_xla.defvjp(_xla_forward, _xla_backward)


def _splash(q: Array, k: Array, v: Array, visible: Visible) -> Array:
    if visible.mask is not None:
        raise ValueError("splash attention knows segments and causality, no mask")
    width = q.shape[1]
    segments = visible.segments
    if segments is None:
        segments = jnp.ones(q.shape[:2], jnp.int32)
    # Positions beyond the width are a segment of their own.
    filled = -width % _BLOCK

    def rows(q, k, v, segments):
        q, k, v = (jnp.swapaxes(jnp.pad(x, ((0, 0), (0, filled), (0, 0), (0, 0))), 1, 2) for x in (q, k, v))
        segments = jnp.pad(segments, ((0, 0), (0, filled)), constant_values=-1)
        kernel = _splash_kernel(q.shape[1], width + filled, visible.causal)
        # The kernel itself does not divide by the root of the heads' width.
        scaled = q * jnp.asarray(q.shape[-1] ** -0.5, q.dtype)
        mixed = jax.vmap(kernel)(scaled, k, v, _segment_ids(segments))
        return jnp.swapaxes(mixed, 1, 2)[:, :width]

    return by_rows_and_heads(rows, (q, k, v), (segments,))


def _segment_ids(segments: Int32[Array, "b t"]):
    from jax.experimental.pallas.ops.tpu.splash_attention import SegmentIds

    return SegmentIds(segments, segments)


def _splash_kernel(heads: int, width: int, causal: bool):
    from jax.experimental.pallas.ops.tpu.splash_attention import BlockSizes, make_splash_mha
    from jax.experimental.pallas.ops.tpu.splash_attention.splash_attention_mask import (
        CausalMask,
        FullMask,
        MultiHeadMask,
    )

    block = max(size for size in range(_BLOCK, _LARGE_BLOCK + 1, _BLOCK) if width % size == 0)
    sizes = BlockSizes(
        **dict.fromkeys(("block_q", "block_kv", "block_q_dkv", "block_kv_dkv", "block_q_dq", "block_kv_dq"), block)
    )
    mask = (CausalMask if causal else FullMask)((width, width))
    return make_splash_mha(
        MultiHeadMask([mask] * heads), head_shards=1, q_seq_shards=1, block_sizes=sizes, residual_checkpoint_name=KEPT
    )
