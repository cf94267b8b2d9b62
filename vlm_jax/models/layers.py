"""Linear maps with optional low-rank adapters, norms, and stacks of identical blocks.

Modules are blueprints: they name the weights and say how to start them. The engine merges them with a nested dict of
arrays inside a pure function (``vlm_jax/models/llava.py``), so nothing here holds state between calls.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Float, Int32

from vlm_jax.arrays import Params
from vlm_jax.models.attend import KEPT
from vlm_jax.models.quantize import dense

# Rows of token tables start like LLaMA's.
_EMBEDDING_STD = 0.02

Remat = Literal["none", "dots", "block"]


class Linear(nnx.Module):
    """y = x W (+ b) (+ scale * (x A) B): a kernel stored (in, out), an optional bias, an optional adapter.

    The kernel may be a quantised one, see ``models/quantize.py``.
    """

    def __init__(self, inputs: int, outputs: int, *, bias: bool, rngs: nnx.Rngs):
        # 1/sqrt(inputs) keeps the scale of x at every width; at LLaMA's own widths it is about its 0.02.
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (inputs, outputs)) / math.sqrt(inputs))
        self.bias = nnx.Param(jnp.zeros(outputs)) if bias else None

    def __call__(
        self, x: Float[Array, "*b i"], adapter: Params | None = None, scale: float = 1.0
    ) -> Float[Array, "*b o"]:
        """Computes in x's dtype. ``adapter`` is ``{"a": [i, rank], "b": [rank, o]}`` (Hu et al. 2021, eq. 3)."""
        y = x @ dense(self.kernel.get_value(), x.dtype)
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        if adapter is not None:
            y = y + (x @ adapter["a"].astype(x.dtype)) @ adapter["b"].astype(x.dtype) * scale
        return y


class LayerNorm(nnx.Module):
    """Layer norm with statistics in float32."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        wide = x.astype(jnp.float32)
        centred = wide - wide.mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + self.eps)
        return (normed * self.scale[...] + self.bias[...]).astype(x.dtype)


class RMSNorm(nnx.Module):
    """Root-mean-square norm with statistics in float32; rounded before the weight, as in transformers' LLaMA."""

    def __init__(self, width: int, eps: float):
        self.scale = nnx.Param(jnp.ones(width))
        self.eps = eps

    def __call__(self, x: Float[Array, "*b d"]) -> Float[Array, "*b d"]:
        wide = x.astype(jnp.float32)
        normed = wide * jax.lax.rsqrt(jnp.square(wide).mean(-1, keepdims=True) + self.eps)
        return normed.astype(x.dtype) * self.scale[...].astype(x.dtype)


class Embedding(nnx.Module):
    """A table of rows; ids must lie inside it (out-of-range ids would silently read the last row)."""

    def __init__(self, rows: int, width: int, rngs: nnx.Rngs):
        self.table = nnx.Param(_EMBEDDING_STD * jax.random.normal(rngs.params(), (rows, width)))

    def __call__(self, ids: Int32[Array, "*b"]) -> Float[Array, "*b d"]:
        return self.table[...][ids]


def kept(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """What a backward pass keeps under ``remat="dots"``."""
    return checkpoint_name(x, KEPT)


def _products(primitive: Any, *arguments: Any, **parameters: Any) -> Any:
    """What was named by :func:`kept`, and what a fused attention kernel leaves for its own backward pass."""
    named = jax.checkpoint_policies.save_only_these_names(KEPT)
    return primitive.name.startswith("dot_product_attention") or named(primitive, *arguments, **parameters)


def stack(make: Callable[[nnx.Rngs], nnx.Module], layers: int, rngs: nnx.Rngs) -> nnx.Module:
    """One module whose every weight has a leading layer axis; run it with :func:`scan_blocks`."""
    graphdef = nnx.graphdef(nnx.eval_shape(lambda: make(nnx.Rngs(0))))
    weights = jax.vmap(lambda key: nnx.state(make(nnx.Rngs(key))))(jax.random.split(rngs.params(), layers))
    return nnx.merge(graphdef, weights)


def scan_blocks(
    blocks: nnx.Module,
    body: Callable[[nnx.Module, Any, Any], Any],
    carry: Any,
    xs: Any = None,
    *,
    layers: int | None = None,
    remat: Remat = "none",
) -> Any:
    """Run stacked blocks in order: ``carry = body(block, carry, x)`` for each layer's block and slice of ``xs``.

    Args:
        blocks: A module from :func:`stack`.
        body: Called once, with one layer's module; must not close over traced weights.
        carry: Pytree handed from layer to layer.
        xs: Pytree whose leaves have a leading layer axis, or None.
        layers: Run only the first this many.
        remat: What the backward pass keeps of each block.
    """
    graphdef, weights = nnx.split(blocks)
    if layers is not None:
        weights, xs = jax.tree.map(lambda leaf: leaf[:layers], (weights, xs))
    step = _recomputed(lambda carry, layer: (body(nnx.merge(graphdef, layer[0]), carry, layer[1]), None), remat)
    return jax.lax.scan(step, carry, (weights, xs))[0]


def loop_blocks(
    blocks: Sequence[nnx.Module],
    body: Callable[[nnx.Module, Any, Any], Any],
    carry: Any,
    xs: Sequence[Any],
    *,
    remat: Remat = "none",
) -> Any:
    """As :func:`scan_blocks`, of blocks each by itself: ``body`` is called for every layer, so compiling takes longer,
    and no layer's weights are cut out of a stack, which GPUs do by copying them."""
    for block, x in zip(blocks, xs, strict=True):
        graphdef, weights = nnx.split(block)
        step = _recomputed(
            lambda carry, layer, graphdef=graphdef: body(nnx.merge(graphdef, layer[0]), carry, layer[1]), remat
        )
        carry = step(carry, (weights, x))
    return carry


def unstacked(tree: Any, layers: int) -> tuple[Any, ...]:
    """The layers of stacked weights, each by itself."""
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i], tree) for i in range(layers))


def _recomputed(step: Callable, remat: Remat) -> Callable:
    if remat == "dots":
        return jax.checkpoint(step, policy=_products)
    return jax.checkpoint(step) if remat == "block" else step
