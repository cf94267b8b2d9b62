"""How likely a model finds given answers: the other way, beside generating, to ask it a multiple-choice question."""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from vlm_jax.arrays import Batch, Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.config import LlavaConfig
from vlm_jax.data.pipelines import image_continuations, prompt_lengths
from vlm_jax.data.sources import Prompt
from vlm_jax.models.llava import forward, logits
from vlm_jax.parallel.compile import place_batch
from vlm_jax.runs.progress import Meter


class Likelihood(NamedTuple):
    """``log_prob``: sum over the continuation's tokens, without an end token; ``is_greedy``: whether greedy decoding
    begins with it."""

    log_prob: float
    is_greedy: bool


def likelihoods(
    model: Model,
    lora: Params,
    prompts: Sequence[Prompt],
    continuations: Sequence[str],
    *,
    batch_size: int,
) -> list[Likelihood]:
    """One for each prompt and what may follow its ``ASSISTANT:`` (the space between them left out), in their order.

    An empty continuation is certain. Raises what ``data.pipelines.image_continuations`` does.
    """
    texts, buckets = (model.tokenizer, model.config, model.template), prompt_lengths(model.config)
    found: dict[int, Likelihood] = {}
    with jax.set_mesh(model.mesh), Meter("likelihoods", len(prompts)) as meter:
        for batch in image_continuations(prompts, continuations, *texts, batch_size, buckets):
            score = _compiled(model.config, _span(batch.batch))
            placed = place_batch(model.mesh, batch.batch)
            log_probs, greedy = (np.asarray(values).tolist() for values in score(model.base, lora, placed))
            for row in np.flatnonzero(batch.row_mask):
                found[int(batch.index[row])] = Likelihood(log_probs[row], greedy[row])
            meter.update(len(found))
    return [found[index] for index in range(len(prompts))]


def _span(batch: Batch) -> int:
    """How many last positions hold every continuation of a left-padded batch; few different values, so that little is
    compiled."""
    longest = int(batch.loss_mask.sum(1).max())
    return min(1 << max(longest - 1, 0).bit_length(), batch.tokens.shape[1] - 1)


@functools.lru_cache(maxsize=32)
def _compiled(config: LlavaConfig, span: int) -> Callable:
    """Logits, the largest array, exist for the last ``span`` positions alone."""

    @jax.jit
    def score(base: Params, lora: Params, batch: Batch) -> tuple[Float[Array, " b"], Bool[Array, " b"]]:
        hidden = forward(config, base, lora, batch).hidden[:, -span - 1 : -1]
        scores, mask = logits(config, base, hidden), batch.loss_mask[:, -span:]
        targets = jnp.where(mask, batch.tokens[:, -span:], 0)
        chosen = jnp.take_along_axis(scores, targets[..., None], -1)[..., 0] - jax.nn.logsumexp(scores, -1)
        # As decoding, which never draws the placeholder.
        drawable = jnp.arange(scores.shape[-1]) != config.image_token_id
        best = jnp.argmax(jnp.where(drawable, scores, -jnp.inf), -1)
        return jnp.where(mask, chosen, 0.0).sum(1), ((best == targets) | ~mask).all(1)

    return score
