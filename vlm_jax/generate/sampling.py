"""How one token is chosen from logits."""

import dataclasses

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from vlm_jax.errors import InputError
from vlm_jax.parallel.mesh import BATCH_AXES, constrain

_NEVER = -jnp.inf
# Below it float32 divides logits to infinity, or takes the mass of a token for nothing; 0 says greedy.
_SMALLEST = 1e-6
_HOTTEST = 1e6


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Temperature 0 is greedy, others are 1e-6 to 1e6. ``top_k`` 0 and ``top_p`` 1 keep every token; both apply after
    the temperature.

    Raises:
        InputError: A figure out of its range.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0

    def __post_init__(self):
        # Written so that NaN is refused as well.
        heat = self.temperature == 0 or _SMALLEST <= self.temperature <= _HOTTEST
        if self.max_new_tokens < 1 or not heat or not _SMALLEST <= self.top_p <= 1 or self.top_k < 0:
            ranges = f"temperature 0 or {_SMALLEST} to {_HOTTEST:.0f}, top_p {_SMALLEST} to 1, top_k >= 0"
            raise InputError(str(self), f"max_new_tokens >= 1, {ranges}")


@flax.struct.dataclass
class Part:
    """Some rows of a larger batch: every ``parts``-th from row ``number`` on. Each draws what it draws in the whole.

    Attributes:
        number: Of the part, from 0.
        parts: Of equal size, as ``train.optim.split_rows`` makes them.
    """

    number: Int32[Array, ""]
    parts: int = flax.struct.field(pytree_node=False)


def keep_top_k(logits: Float[Array, "b v"], k: int) -> Float[Array, "b v"]:
    """Minus infinity below the k-th largest logit (ties with it are kept, as in transformers)."""
    threshold = jax.lax.top_k(logits, min(k, logits.shape[-1]))[0][:, -1:]
    return jnp.where(logits < threshold, _NEVER, logits)


def keep_top_p(logits: Float[Array, "b v"], p: float) -> Float[Array, "b v"]:
    """Keep the smallest set of most likely tokens whose probability reaches p (Holtzman et al. 2020)."""
    order = jnp.argsort(logits, axis=-1, descending=True)
    ranked = jnp.take_along_axis(jax.nn.softmax(logits, -1), order, -1)
    # A token stays if the mass before it is below p, so the one that crosses p stays too.
    keep_ranked = jnp.cumsum(ranked, -1) - ranked < p
    keep = jnp.zeros_like(keep_ranked).at[jnp.arange(len(logits))[:, None], order].set(keep_ranked)
    return jnp.where(keep, logits, _NEVER)


def _gumbel_like(key: Array, logits: Float[Array, "b v"], part: Part | None) -> Float[Array, "b v"]:
    """Standard Gumbel noise; logits with it added are largest at a token drawn from their softmax.

    A part's rows are cut out of the whole batch's noise, which is made anew in each part: a few operations a number,
    nothing beside a step of a model with that many tokens to choose from.
    """
    rows, vocabulary = logits.shape
    if part is None:
        return jax.random.gumbel(key, (rows, vocabulary), logits.dtype)
    whole = jax.random.gumbel(key, (rows * part.parts, vocabulary), logits.dtype)
    strided = constrain(whole.reshape(rows, part.parts, vocabulary), BATCH_AXES, None, "tensor")
    return jax.lax.dynamic_index_in_dim(strided, part.number, axis=1, keepdims=False)


def choose(
    key: Array, logits: Float[Array, "b v"], sampling: Sampling, forbidden: int, part: Part | None = None
) -> tuple[Int32[Array, " b"], Float[Array, " b"]]:
    """One token per row and its log-probability under the distribution that it was drawn from.

    Args:
        key: Typed PRNG key; unused when greedy.
        logits: Float32 scores of the next token.
        sampling: The rule (static).
        forbidden: An id that is never chosen (the image placeholder); may lie outside the vocabulary.
        part: Where these are some rows of a larger batch.
    """
    logits = jnp.where(jnp.arange(logits.shape[-1]) == forbidden, _NEVER, logits)
    if sampling.temperature == 0:
        tokens = jnp.argmax(logits, -1)
    else:
        logits = logits / sampling.temperature
        if sampling.top_k:
            logits = keep_top_k(logits, sampling.top_k)
        if sampling.top_p < 1:
            logits = keep_top_p(logits, sampling.top_p)
        # What jax.random.categorical does.
        tokens = jnp.argmax(logits + _gumbel_like(key, logits, part), -1)
    log_probs = jnp.take_along_axis(jax.nn.log_softmax(logits, -1), tokens[:, None], -1)[:, 0]
    return tokens.astype(jnp.int32), log_probs
