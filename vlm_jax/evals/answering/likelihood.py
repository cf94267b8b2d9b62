"""How often a model's own likelihood ranks a pair of answers as the annotators did: the reward that a model has
before any reward model is trained."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.assemble import batch_of, viewer
from vlm_jax.data.conversation import Turn
from vlm_jax.data.encoding import encode_conversation
from vlm_jax.data.sources import Preference
from vlm_jax.models.llava import forward
from vlm_jax.parallel.compile import place_batch
from vlm_jax.train.losses import next_token_loss


def preference_accuracy(
    model: Model, lora: Params, pairs: list[Preference], max_length: int, batch_size: int = 64
) -> float:
    """Share of pairs whose preferred answer has the higher mean log-probability per token."""
    config, view = model.config, viewer(model.config)

    @jax.jit
    def mean_log_prob(base, lora, batch):
        values, mask = next_token_loss(config, base, forward(config, base, lora, batch).hidden, batch)
        return -jnp.where(mask, values, 0.0).sum(1) / mask.sum(1)

    samples = [
        (
            encode_conversation(model.tokenizer, model.template, (*pair.turns, Turn("gpt", text)), config, max_length),
            view(pair),
        )
        for pair in pairs
        for text in pair.answers
    ]
    values = []
    for start in range(0, len(samples), batch_size):
        rows = samples[start : start + batch_size]
        full = rows + rows[-1:] * (batch_size - len(rows))
        batch = batch_of(full, max_length, "right", config.pad_token_id)
        values.append(np.asarray(mean_log_prob(model.base, lora, place_batch(model.mesh, batch)))[: len(rows)])
    first, second = np.concatenate(values).reshape(-1, 2).T
    chosen = np.array([pair.choice for pair in pairs])
    return float(np.mean((second > first) == (chosen == 1)))
