"""Supervised fine-tuning: next-token cross-entropy on the answers, full weights or a low-rank adapter."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vlm_jax.arrays import Batch, Params
from vlm_jax.config import LlavaConfig
from vlm_jax.models.llava import forward
from vlm_jax.train.losses import next_token_loss
from vlm_jax.train.optim import Optim, TrainState, apply_gradients, split_rows, summed


@dataclasses.dataclass(frozen=True)
class SftSettings:
    """``microbatches`` splits a batch inside the step: the same gradient in a part of the memory."""

    optim: Optim
    microbatches: int = 1


def overlay(base: Params, trained: Params) -> Params:
    """The base, which need not hold what is trained, with a trained subtree laid over it; neither is changed."""
    laid = {
        name: overlay(base.get(name, {}), value) if isinstance(value, dict) else value
        for name, value in trained.items()
    }
    return {**base, **laid}


def sft_loss(
    config: LlavaConfig, base: Params, params: Params, batch: Batch
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Sum of the answer tokens' losses and their number.

    ``params`` is ``{"lora": adapter}`` or ``{"base": subtree}``; the subtree's weights replace the base's.
    """
    full = overlay(base, params.get("base", {}))
    hidden = forward(config, full, params.get("lora"), batch).hidden
    values, mask = next_token_loss(config, full, hidden, batch)
    return jnp.where(mask, values, 0.0).sum(), mask.sum().astype(jnp.float32)


def sft_step(
    config: LlavaConfig, settings: SftSettings, base: Params, state: TrainState, batch: Batch
) -> tuple[TrainState, dict[str, Array]]:
    """One update. The loss is the mean over the answer tokens of the whole batch, however it is split.

    Returns:
        The new state, and ``loss`` (nats per token), ``tokens`` (answer tokens), ``padding`` (share of the positions),
        gradient norm, learning rate.
    """
    value_and_gradient = jax.value_and_grad(lambda params, part: sft_loss(config, base, params, part), has_aux=True)

    parts = split_rows(batch, settings.microbatches)
    (loss, count), gradients = summed(lambda part: value_and_gradient(state.params, part), parts)
    count = jnp.maximum(count, 1.0)
    state, metrics = apply_gradients(settings.optim, state, jax.tree.map(lambda g: g / count, gradients))
    padding = 1 - batch.attention_mask.mean(dtype=jnp.float32)
    return state, {"loss": loss / count, "tokens": count, "padding": padding, **metrics}
