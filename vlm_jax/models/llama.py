"""A LLaMA decoder (Touvron et al. 2023), as Vicuna v1.5 uses it: pre-norm, rotary positions, gated MLP, no biases."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int32

from vlm_jax.arrays import Params
from vlm_jax.config import LanguageConfig
from vlm_jax.models.attend import Implementation, Visible
from vlm_jax.models.attention import Attention, Cache, rotary
from vlm_jax.models.layers import Embedding, Linear, RMSNorm, kept, stack
from vlm_jax.parallel.mesh import BATCH_AXES, constrain, fsdp_parts, split_by_feature


class Adapted(NamedTuple):
    """One layer's low-rank adapters and their common factor; ``weights`` is None for the bare base."""

    weights: Params | None
    scale: float

    def part(self, name: str) -> Params | None:
        return self.weights[name] if self.weights is not None else None


class BlockOutput(NamedTuple):
    """A block's output and the two updates that it added to its input."""

    hidden: Float[Array, "b t d"]
    attention: Float[Array, "b t d"]
    mlp: Float[Array, "b t d"]
    cache: Cache | None


class GatedMlp(nnx.Module):
    """down(silu(gate x) * up x)."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.gate = Linear(width, hidden, bias=False, rngs=rngs)
        self.up = Linear(width, hidden, bias=False, rngs=rngs)
        self.down = Linear(hidden, width, bias=False, rngs=rngs)

    def __call__(self, x: Float[Array, "b t d"], adapter: Params | None, scale: float) -> Float[Array, "b t d"]:
        adapter = adapter or {}
        gate, up = (kept(getattr(self, name)(x, adapter.get(name), scale)) for name in ("gate", "up"))
        return self.down(jax.nn.silu(gate) * up, adapter.get("down"), scale)


class DecoderBlock(nnx.Module):
    """Attention and gated MLP, each behind an RMS norm and added to the residual stream."""

    def __init__(self, config: LanguageConfig, rngs: nnx.Rngs):
        self.attention_norm = RMSNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads, config.kv_heads, bias=False, rngs=rngs)
        self.mlp_norm = RMSNorm(config.width, config.norm_eps)
        self.mlp = GatedMlp(config.width, config.mlp_width, rngs)
        self.theta, self.scaling, self.max_positions = config.rope_theta, config.rope_scaling, config.max_positions

    def __call__(
        self,
        x: Float[Array, "b t d"],
        positions: Int32[Array, "b t"],
        visible: Visible,
        implementation: Implementation,
        adapter: Adapted,
        layer: Int32[Array, ""] | int,
        cache: Cache | None,
        prefill: bool,
    ) -> BlockOutput:
        """``prefill`` says that the cache was empty: the new positions are all that there is to read."""
        decoding = decodes_spread(cache, prefill)
        if decoding:
            # Beside weights that are split for decoding, a token's states are whole on every device.
            x = constrain(x, "data")
        split = split_by_feature if decoding else None
        q, k, v = self.attention.qkv(self.attention_norm(x), adapter.part("attention"), adapter.scale, split)
        if decoding:
            # Every device has the cache of its own rows.
            q, k, v = (constrain(constrain(projected, "data"), BATCH_AXES) for projected in (q, k, v))
        rope = (positions, self.theta, self.scaling, self.max_positions)
        q, k = rotary(q, *rope), rotary(k, *rope)
        if cache is not None:
            cache = cache.written(layer, k, v)
        if cache is not None and not prefill:
            k, v = (store.astype(q.dtype) for store in cache.read(layer))
        mixed = self.attention.mix(q, k, v, visible, implementation)
        if decoding:
            mixed = split_by_feature(constrain(mixed, "data"))
        attended = self.attention.out(mixed, adapter.part("attention"), adapter.scale)
        x = x + attended
        transformed = self.mlp(self.mlp_norm(x), adapter.part("mlp"), adapter.scale)
        return BlockOutput(x + transformed, attended, transformed, cache)


def decodes_spread(cache: Cache | None, prefill: bool) -> bool:
    """Whether weights are split for decoding (``mesh.spread_for_decoding``): in steps over a filled cache, where there
    is more than one part of them."""
    return cache is not None and not prefill and fsdp_parts() > 1


class Decoder(nnx.Module):
    """Token table, stacked blocks, final norm and vocabulary head."""

    def __init__(self, config: LanguageConfig, rngs: nnx.Rngs):
        self.embedding = Embedding(config.vocab_size, config.width, rngs).table
        self.blocks = stack(lambda r: DecoderBlock(config, r), config.layers, rngs)
        self.norm = RMSNorm(config.width, config.norm_eps)
        self.head = Linear(config.width, config.vocab_size, bias=False, rngs=rngs)


def empty_cache(config: LanguageConfig, rows: int, slots: int, dtype: jnp.dtype) -> Cache:
    """Zeroed cache for ``rows`` sequences of at most ``slots`` positions."""
    shape = (config.layers, rows, slots, config.kv_heads, config.head_width)
    return Cache(
        keys=jnp.zeros(shape, dtype),
        values=jnp.zeros(shape, dtype),
        mask=jnp.zeros((rows, slots), bool),
        used=jnp.zeros((), jnp.int32),
    )
