"""The reward model: a low-rank adapter and a scalar head over the base, trained on pairs (Bradley & Terry 1952)."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32

from vlm_jax.arrays import Batch, Params, PreferenceBatch
from vlm_jax.config import LlavaConfig
from vlm_jax.models.llava import Edit, forward, scores
from vlm_jax.train.losses import bradley_terry_loss
from vlm_jax.train.optim import Optim, TrainState, apply_gradients, split_rows, summed


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """``centring`` keeps scores near 0 (LLaVA-RLHF adds 1e-3 |mean(r0 + r1)|).

    ``microbatches`` splits a batch of pairs inside the step, in a part of the memory; centring then holds the mean of
    each part near 0, as with gradient accumulation in LLaVA-RLHF.
    """

    optim: Optim
    centring: float = 1e-3
    microbatches: int = 1


def last_real(batch: Batch) -> Int32[Array, " b"]:
    """Index of each row's last real token, whichever side the padding is on."""
    width = batch.attention_mask.shape[1]
    return width - 1 - jnp.argmax(batch.attention_mask[:, ::-1], 1).astype(jnp.int32)


def reward_scores(
    config: LlavaConfig, base: Params, role: Params, batch: Batch, edit: Edit | None = None
) -> Float[Array, " b"]:
    """Float32 score of each row, read at its last real token. ``role`` is ``{"lora", "head"}``."""
    hidden = forward(config, base, role["lora"], batch, edit=edit).hidden
    last = jnp.take_along_axis(hidden, last_real(batch)[:, None, None], axis=1)[:, 0]
    return scores(role["head"], last)


def reward_loss(
    config: LlavaConfig, settings: RewardSettings, base: Params, role: Params, batch: PreferenceBatch
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Mean Bradley-Terry loss with the centring term; both answers of all pairs go through in one batch.

    Metrics: ``accuracy`` of (second - first >= 0) against the choice, ``margin`` = mean score of the chosen answer
    minus the rejected one, ``mean_score``.
    """
    first, second = jnp.split(reward_scores(config, base, role, batch.batch), 2)
    loss = bradley_terry_loss(first, second, batch.choice).mean()
    total = loss + settings.centring * jnp.abs((first + second).mean())
    chosen = jnp.where(batch.choice == 1, second - first, first - second)
    metrics = {
        "loss": loss,
        "accuracy": ((second - first >= 0) == (batch.choice == 1)).mean(dtype=jnp.float32),
        "margin": chosen.mean(),
        "mean_score": (first + second).mean() / 2,
    }
    return total, metrics


def reward_step(
    config: LlavaConfig, settings: RewardSettings, base: Params, state: TrainState, batch: PreferenceBatch
) -> tuple[TrainState, dict[str, Array]]:
    """One update of ``state.params = {"lora", "head"}``; metrics as in :func:`reward_loss`, means over microbatches."""
    gradient = jax.grad(lambda params, part: reward_loss(config, settings, base, params, part), has_aux=True)
    parts = split_pairs(batch, settings.microbatches)
    total = summed(lambda part: gradient(state.params, part), parts)
    gradients, metrics = jax.tree.map(lambda x: x / settings.microbatches, total)
    state, optimizer_metrics = apply_gradients(settings.optim, state, gradients)
    return state, metrics | optimizer_metrics


def split_pairs(batch: PreferenceBatch, parts: int) -> PreferenceBatch:
    """Like ``split_rows``, with both answers of a pair in one part: first answers, then second ones."""

    def split(x):
        pairs = x.reshape(2, -1, parts, *x.shape[1:])
        return jnp.moveaxis(pairs, 2, 0).reshape(parts, -1, *x.shape[1:])

    return PreferenceBatch(batch=jax.tree.map(split, batch.batch), choice=split_rows(batch.choice, parts))
