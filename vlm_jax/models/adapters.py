"""Low-rank adapters (Hu et al. 2021) and scalar heads: the small trees that turn one frozen base into four roles.

A role is ``{"lora": tree}`` or ``{"lora": tree, "head": {"kernel", "bias"}}``. The tree mirrors a decoder block,
``{"attention": {"q": {"a", "b"}, ...}, "mlp": {"gate": ..., ...}}``, with a leading layer axis on every leaf.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vlm_jax.arrays import Params
from vlm_jax.config import LanguageConfig, LlavaConfig


def _widths(config: LanguageConfig) -> dict[str, dict[str, tuple[int, int]]]:
    """(inputs, outputs) of the seven adapted projections."""
    width, heads, keys = config.width, config.heads * config.head_width, config.kv_heads * config.head_width
    hidden = config.mlp_width
    return {
        "attention": {"q": (width, heads), "k": (width, keys), "v": (width, keys), "o": (heads, width)},
        "mlp": {"gate": (width, hidden), "up": (width, hidden), "down": (hidden, width)},
    }


def init_lora(config: LlavaConfig, key: Array) -> Params:
    """A fresh float32 adapter: A uniform in +-1/sqrt(inputs) (peft's kaiming-uniform), B zero, so that it changes
    nothing yet. Float32 masters even over a bf16 base: bf16 loses small updates."""
    rank, layers = config.lora.rank, config.language.layers
    shapes = _widths(config.language)
    keys = iter(jax.random.split(key, sum(len(part) for part in shapes.values())))

    def pair(inputs, outputs):
        bound = 1 / math.sqrt(inputs)
        a = jax.random.uniform(next(keys), (layers, inputs, rank), minval=-bound, maxval=bound)
        return {"a": a, "b": jnp.zeros((layers, rank, outputs))}

    return {part: {name: pair(*shape) for name, shape in maps.items()} for part, maps in shapes.items()}


def changes_nothing(lora: Params) -> bool:
    """Whether A B is zero in every layer of every projection, so that no logit changes."""
    pairs = [pair for maps in lora.values() for pair in maps.values()]
    moved = [(pair["a"] != 0).any((1, 2)) & (pair["b"] != 0).any((1, 2)) for pair in pairs]
    return not any(bool(layers.any()) for layers in moved)


def init_reward_head(config: LlavaConfig, key: Array) -> Params:
    """Uniform in +-1/sqrt(d) with zero bias (facts of LLaVA-RLHF's reward model: torch's Linear default)."""
    width = config.language.width
    bound = 1 / math.sqrt(width)
    return {"kernel": jax.random.uniform(key, (width,), minval=-bound, maxval=bound), "bias": jnp.zeros(())}


def verdict_head(base: Params, good: int, bad: int) -> Params:
    """A reward head that starts as the language model's own leaning: ``logit(good) - logit(bad)`` of the next token,
    scaled to the norm that the rows of :func:`init_reward_head` have on average, so that neither start is the louder.

    Args:
        base: With an output layer, ``base["language"]["head"]["kernel"]`` [d, v].
        good: Id of the token that speaks for an answer.
        bad: Id of the one that speaks against it.
    """
    kernel = base["language"]["head"]["kernel"]
    direction = (kernel[:, good] - kernel[:, bad]).astype(jnp.float32)
    return {"kernel": direction * math.sqrt(1 / 3) / jnp.linalg.norm(direction), "bias": jnp.zeros(())}


def init_value_head(config: LlavaConfig) -> Params:
    """Zeros: the value model starts by predicting nothing (LLaVA-RLHF re-initialises it so)."""
    return {"kernel": jnp.zeros(config.language.width), "bias": jnp.zeros(())}


def merged_kernel(
    config: LlavaConfig, kernel: Float[Array, "*l i o"], a: Float[Array, "*l i r"], b: Float[Array, "*l r o"]
) -> Float[Array, "*l i o"]:
    """A kernel with ``scale * A B`` added in float32, in the kernel's dtype."""
    update = jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST, preferred_element_type=jnp.float32)
    return (kernel.astype(jnp.float32) + config.lora.scale * update).astype(kernel.dtype)
