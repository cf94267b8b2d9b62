"""The forward passes behind a script's calls, each compiled once for a config, an edit and a shape."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vlm_jax.arrays import Batch, EvalBatch, Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.config import LlavaConfig
from vlm_jax.interpret.edit_at import EditAt
from vlm_jax.models.llava import Capture, forward
from vlm_jax.parallel.compile import place_batch
from vlm_jax.parallel.memory import require_reading
from vlm_jax.train.losses import next_token_loss
from vlm_jax.train.reward import reward_scores


def by_row(model: Model, weights: Params, batches: Iterable[EvalBatch], compute: Callable) -> list[tuple[Batch, Any]]:
    """``compute(base, weights, batch)`` over batches, cut into rows in the records' order.

    Returns:
        The row's texts and masks without its image, and its part of the result: NumPy arrays, the row axis gone.
    """
    found = {}
    for rows in batches_by_row(model, weights, batches, compute):
        found |= rows
    return [found[index] for index in sorted(found)]


def batches_by_row(
    model: Model,
    weights: Params,
    batches: Iterable[EvalBatch],
    compute: Callable,
    skip: Callable[[Sequence[int]], bool] = lambda records: False,
) -> Iterator[dict[int, tuple[Batch, Any]]]:
    """:func:`by_row` batch after batch, rows by record; ``skip`` is told a batch's records, and true leaves it out."""
    with jax.set_mesh(model.mesh):
        for one in batches:
            rows = np.flatnonzero(one.row_mask)
            if skip(one.index[rows].tolist()):
                continue
            require_reading(model, *one.batch.tokens.shape)
            out = jax.device_get(compute(model.base, weights, place_batch(model.mesh, one.batch)))
            texts = one.batch.replace(images=None)
            yield {int(one.index[row]): _row((texts, out), row) for row in rows.tolist()}


def _row(tree: Any, row: int) -> Any:
    return jax.tree.map(lambda leaf: leaf[row], tree)


@functools.lru_cache(maxsize=32)
def answer_log_probs(config: LlavaConfig, edit: EditAt | None) -> Callable:
    """(base, lora, batch) -> log-probability of each position's successor, float32 [b, t - 1]."""

    @jax.jit
    def compute(base: Params, lora: Params, batch: Batch) -> Float[Array, "b u"]:
        hidden = forward(config, base, lora, batch, edit=edit and edit(batch)).hidden
        return -next_token_loss(config, base, hidden, batch)[0]

    return compute


@functools.lru_cache(maxsize=32)
def captured_states(config: LlavaConfig, edit: EditAt | None, capture: Capture) -> Callable:
    """(base, lora, batch) -> site -> states of the captured layers, float32 [b, c, t, d]."""

    @jax.jit
    def compute(base: Params, lora: Params, batch: Batch) -> dict[str, Float[Array, "b c t d"]]:
        states = forward(config, base, lora, batch, capture=capture, edit=edit and edit(batch)).states
        return {site: jnp.moveaxis(values, 1, 0).astype(jnp.float32) for site, values in states.items()}

    return compute


@functools.lru_cache(maxsize=32)
def judged_scores(config: LlavaConfig, edit: EditAt | None) -> Callable:
    """(base, role, batch) -> the reward head's score, float32 [b]."""
    return jax.jit(lambda base, role, batch: reward_scores(config, base, role, batch, edit and edit(batch)))
