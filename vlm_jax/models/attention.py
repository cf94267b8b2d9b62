"""Multi-head attention with rotary positions, an optional cache and optional adapters."""

import math
from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jax.experimental.layout import Layout, with_layout_constraint
from jaxtyping import Array, Bool, Float, Int32

from vlm_jax.arrays import Params
from vlm_jax.config import RopeScaling
from vlm_jax.models.attend import Implementation, Visible, attend
from vlm_jax.models.layers import Linear, kept
from vlm_jax.parallel.mesh import by_rows


@flax.struct.dataclass
class Cache:
    """Keys and values of all layers for ``s`` slots. Every row writes the same slot (prompts are left-padded).

    Attributes:
        keys, values: One slice per layer; stacked, or after :meth:`apart` each by itself and with the slots last.
        mask: True on slots that hold a real token.
        used: How many slots are filled (padding included), the same for every row.
    """

    keys: Float[Array, "l b s k h"] | tuple[Float[Array, "b k h s"], ...]
    values: Float[Array, "l b s k h"] | tuple[Float[Array, "b k h s"], ...]
    mask: Bool[Array, "b s"]
    used: Int32[Array, ""]

    def written(
        self, layer: Int32[Array, ""] | int, keys: Float[Array, "b t k h"], values: Float[Array, "b t k h"]
    ) -> "Cache":
        """With one layer's new keys and values in the slots that start at ``used``."""

        def put(store, new):
            if not isinstance(store, tuple):
                # Left to itself the TPU's compiler puts rows innermost, and fills up eight of them to 128.
                new = by_rows(in_order, new.astype(store.dtype))
                return jax.lax.dynamic_update_slice(store, new[None], (layer, 0, self.used, 0, 0))
            new = rearrange(new, "b t k h -> b k h t").astype(store[layer].dtype)
            own = jax.lax.dynamic_update_slice(store[layer], new, (0, 0, 0, self.used))
            return (*store[:layer], own, *store[layer + 1 :])

        return self.replace(keys=put(self.keys, keys), values=put(self.values, values))

    def read(self, layer: Int32[Array, ""] | int) -> tuple[Float[Array, "b s k h"], Float[Array, "b s k h"]]:
        """One layer's keys and values."""
        if not isinstance(self.keys, tuple):
            return self.keys[layer], self.values[layer]
        return tuple(rearrange(store[layer], "b k h s -> b s k h") for store in (self.keys, self.values))

    def apart(self) -> "Cache":
        """For blocks that are apart (``layers.loop_blocks``): the products of a single query turn every layer's keys
        and values around unless their slots come last."""

        def layers(stack):
            return tuple(rearrange(stack, "l b s k h -> l b k h s"))

        return self.replace(keys=layers(self.keys), values=layers(self.values))


def in_order(x: Array) -> Array:
    """Its last axis innermost in memory, as numpy has it."""
    return with_layout_constraint(x, Layout(major_to_minor=tuple(range(x.ndim))))


def rotary_frequencies(
    half: int, positions: Int32[Array, "b t"], theta: float, scaling: RopeScaling | None, max_positions: int
) -> Float[Array, " f"]:
    """Radians a position, f = half the width of a head; stretched as in transformers' ``modeling_rope_utils.py``."""
    if scaling is not None and scaling.kind == "dynamic":
        length = jnp.maximum(positions.max() + 1, max_positions).astype(jnp.float32)
        stretch = scaling.factor * length / max_positions - (scaling.factor - 1)
        theta = theta * stretch ** (half / (half - 1))
    frequencies = theta ** (-jnp.arange(half, dtype=jnp.float32) / half)
    if scaling is None or scaling.kind == "dynamic":
        return frequencies
    slowed = frequencies / scaling.factor
    if scaling.kind == "linear":
        return slowed
    turns = scaling.original_positions * frequencies / (2 * math.pi)
    blend = jnp.clip((turns - scaling.low) / (scaling.high - scaling.low), 0, 1)
    return (1 - blend) * slowed + blend * frequencies


def rotary(
    x: Float[Array, "b t n h"],
    positions: Int32[Array, "b t"],
    theta: float,
    scaling: RopeScaling | None = None,
    max_positions: int = 0,
) -> Float[Array, "b t n h"]:
    """Rotary position embedding, half-split layout (Su et al. 2021; the "rotate_half" layout of transformers)."""
    half = x.shape[-1] // 2
    frequencies = rotary_frequencies(half, positions, theta, scaling, max_positions)
    angles = positions[..., None, None].astype(jnp.float32) * frequencies
    cos, sin = jnp.cos(angles), jnp.sin(angles)
    first, second = x[..., :half].astype(jnp.float32), x[..., half:].astype(jnp.float32)
    return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], -1).astype(x.dtype)


def causal_mask(attention_mask: Bool[Array, "b t"]) -> Bool[Array, "b 1 t t"]:
    """True where query i may read key j: j is real and j <= i."""
    length = attention_mask.shape[1]
    return attention_mask[:, None, None, :] & jnp.tril(jnp.ones((length, length), bool))


def cached_mask(cache_mask: Bool[Array, "b s"], used: Int32[Array, ""], queries: int) -> Bool[Array, "b 1 t s"]:
    """As :func:`causal_mask` for queries that were just written to slots used .. used + queries - 1."""
    slots = jnp.arange(cache_mask.shape[1])
    reach = used + jnp.arange(queries)
    return cache_mask[:, None, None, :] & (slots <= reach[:, None])


class Attention(nnx.Module):
    """Projections q, k, v, o; grouped keys where ``kv_heads < heads``. A cache replaces k, v by all slots so far."""

    def __init__(self, width: int, heads: int, kv_heads: int, *, bias: bool, rngs: nnx.Rngs):
        head_width = width // heads
        self.q = Linear(width, heads * head_width, bias=bias, rngs=rngs)
        self.k = Linear(width, kv_heads * head_width, bias=bias, rngs=rngs)
        self.v = Linear(width, kv_heads * head_width, bias=bias, rngs=rngs)
        self.o = Linear(heads * head_width, width, bias=bias, rngs=rngs)
        self.head_width = head_width

    def qkv(
        self,
        x: Float[Array, "b t d"],
        adapter: Params | None = None,
        scale: float = 1.0,
        split: Callable[[Array], Array] | None = None,
    ) -> tuple[Float[Array, "b t n h"], Float[Array, "b t k h"], Float[Array, "b t k h"]]:
        """Queries, keys and values by head, before any rotation; ``split`` says where their features lie."""
        adapter = adapter or {}

        def project(name):
            y = kept(getattr(self, name)(x, adapter.get(name), scale))
            y = y if split is None else split(y)
            return rearrange(y, "b t (n h) -> b t n h", h=self.head_width)

        return project("q"), project("k"), project("v")

    def mix(
        self,
        q: Float[Array, "b t n h"],
        k: Float[Array, "b s k h"],
        v: Float[Array, "b s k h"],
        visible: Visible,
        implementation: Implementation,
    ) -> Float[Array, "b t e"]:
        """What the heads read, side by side; e = n h."""
        return kept(rearrange(attend(q, k, v, visible, implementation), "b t n h -> b t (n h)"))

    def out(
        self, mixed: Float[Array, "b t e"], adapter: Params | None = None, scale: float = 1.0
    ) -> Float[Array, "b t d"]:
        """The output projection."""
        return kept(self.o(mixed, (adapter or {}).get("o"), scale))
