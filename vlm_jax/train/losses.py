"""Losses without hidden reductions: each returns values per token or per sequence; :func:`masked_mean` reduces."""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int32

from vlm_jax.arrays import Batch, Params
from vlm_jax.config import LlavaConfig
from vlm_jax.models.llava import logits

# Positions whose logits exist at the same time. Full float32 logits of one 1600-token row of Vicuna take 205 MB.
_CHUNK = 256


def masked_mean(values: Float[Array, "*b"], mask: Bool[Array, "*b"]) -> Float[Array, ""]:
    """Mean over True positions in float32; 0 where there are none."""
    weights = mask.astype(jnp.float32)
    return jnp.where(mask, values, 0.0).sum(dtype=jnp.float32) / jnp.maximum(weights.sum(), 1.0)


def token_log_probs(
    config: LlavaConfig,
    base: Params,
    hidden: Float[Array, "b t d"],
    targets: Int32[Array, "b t"],
    temperature: float = 1.0,
) -> tuple[Float[Array, "b t"], Float[Array, "b t"]]:
    """Float32 log-probability of ``targets[:, i]`` given ``hidden[:, i]``, and the entropy of that distribution.

    Long sequences are worked through one chunk after the other, and the backward pass recomputes each, so that the
    whole [b, t, v] array of logits never exists. Targets must be valid ids: replace sentinels before the call.
    """

    @jax.checkpoint
    def chunk(hidden, targets):
        log_p = jax.nn.log_softmax(logits(config, base, hidden) / temperature, -1)
        chosen = jnp.take_along_axis(log_p, targets[..., None], -1)[..., 0]
        return chosen, -(jnp.exp(log_p) * log_p).sum(-1)

    length = hidden.shape[1]
    size = min(_CHUNK, length)
    count = -(-length // size)

    def split(x):
        padded = jnp.pad(x, [(0, 0), (0, count * size - length), *[(0, 0)] * (x.ndim - 2)])
        return jnp.moveaxis(padded.reshape(len(x), count, size, *x.shape[2:]), 1, 0)

    def join(x):
        return jnp.moveaxis(x, 0, 1).reshape(len(hidden), -1)[:, :length]

    chosen, entropy = jax.lax.map(lambda part: chunk(*part), (split(hidden), split(targets)))
    return join(chosen), join(entropy)


def next_token_loss(
    config: LlavaConfig, base: Params, hidden: Float[Array, "b t d"], batch: Batch
) -> tuple[Float[Array, "b u"], Bool[Array, "b u"]]:
    """Negative log-likelihood of each position's successor and the mask of those that count (u = t - 1)."""
    mask = batch.loss_mask[:, 1:]
    # The placeholder id may lie outside the vocabulary, so masked labels are replaced before they are looked up.
    targets = jnp.where(mask, batch.tokens[:, 1:], 0)
    return -token_log_probs(config, base, hidden[:, :-1], targets)[0], mask


def bradley_terry_loss(
    first: Float[Array, " b"], second: Float[Array, " b"], choice: Int32[Array, " b"]
) -> Float[Array, " b"]:
    """-log P(annotator's choice) where P(second is better) = sigmoid(second - first); choice 1 means second."""
    return optax.sigmoid_binary_cross_entropy(second - first, choice.astype(jnp.float32))


def clipped_policy_loss(
    log_probs: Float[Array, "b r"],
    old_log_probs: Float[Array, "b r"],
    advantages: Float[Array, "b r"],
    clip: float,
) -> Float[Array, "b r"]:
    """PPO's pessimistic surrogate (Schulman et al. 2017, eq. 7), negated."""
    ratio = jnp.exp(log_probs - old_log_probs)
    return -jnp.minimum(ratio * advantages, jnp.clip(ratio, 1 - clip, 1 + clip) * advantages)


def clipped_value_loss(
    values: Float[Array, "b r"], old_values: Float[Array, "b r"], returns: Float[Array, "b r"], clip: float
) -> Float[Array, "b r"]:
    """Half the larger of the squared errors of the value and of the value kept within ``clip`` of the old one."""
    clipped = jnp.clip(values, old_values - clip, old_values + clip)
    return 0.5 * jnp.maximum(jnp.square(values - returns), jnp.square(clipped - returns))
