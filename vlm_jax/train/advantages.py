"""Token rewards, generalised advantage estimation, whitening: the arithmetic between a rollout and its losses."""

from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from vlm_jax.train.losses import masked_mean

KlEstimator = Literal["k1", "k1_clamped", "k3"]


def kl_estimate(
    log_probs: Float[Array, "b r"], reference_log_probs: Float[Array, "b r"], estimator: KlEstimator
) -> Float[Array, "b r"]:
    """Per-token estimate of KL(policy || reference) from the sampled token (Schulman, "Approximating KL divergence").

    ``k1`` is log p - log q: unbiased, may be negative. ``k1_clamped`` cuts it at 0 as LLaVA-RLHF's released code
    does, which is biased upwards. ``k3`` = q/p - 1 - log(q/p) is unbiased and never negative.
    """
    k1 = log_probs - reference_log_probs
    if estimator == "k1":
        return k1
    if estimator == "k1_clamped":
        return jnp.maximum(k1, 0.0)
    return jnp.expm1(-k1) + k1


def generalised_advantages(
    rewards: Float[Array, "b r"], values: Float[Array, "b r"], gamma: float, lam: float
) -> tuple[Float[Array, "b r"], Float[Array, "b r"]]:
    """GAE(gamma, lambda) with bootstrap 0 after the last slot (Schulman et al. 2016, eq. 16).

    Where rewards and values are 0 on padding, the padding's advantage is 0 and the last real token's successor value
    is 0, so the same scan serves ragged answers.

    Returns:
        Advantages, and returns = advantages + values.
    """

    def step(carry, slot):
        following_advantage, following_value = carry
        reward, value = slot
        advantage = reward + gamma * following_value - value + gamma * lam * following_advantage
        return (advantage, value), advantage

    nothing = jnp.zeros_like(rewards[:, 0])
    _, advantages = jax.lax.scan(step, (nothing, nothing), (rewards.T, values.T), reverse=True)
    return advantages.T, advantages.T + values


def whiten(values: Float[Array, "b r"], mask: Bool[Array, "b r"], epsilon: float = 1e-8) -> Float[Array, "b r"]:
    """Zero mean and unit (population) variance over True positions, 0 elsewhere; two passes, so that a large common
    offset does not eat the variance."""
    centred = values - masked_mean(values, mask)
    variance = masked_mean(jnp.square(centred), mask)
    return jnp.where(mask, centred * jax.lax.rsqrt(variance + epsilon), 0.0)
