"""What is measured of a model on rows that it is not trained on: on the way, and at the end.

Every measure reads each row once, in the same order and with the same draws each time, so that two of them differ in
the model alone. One epoch of endless batches holds every row once; what comes after it counts nothing.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.arrays import Batch, Params, PreferenceBatch, PromptBatch
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.sources import Prompt
from vlm_jax.parallel.compile import place_batch
from vlm_jax.parallel.local_rows import held_rows
from vlm_jax.parallel.on_host import on_host
from vlm_jax.randomness import key_for
from vlm_jax.runs.rollouts import as_wide_as_needed
from vlm_jax.train.ppo import PpoSettings, measure, sample_answers
from vlm_jax.train.reward import reward_scores
from vlm_jax.train.reward_terms import correctness, total_reward
from vlm_jax.train.sft import sft_loss

Measure = Callable[[Params], dict[str, float]]


def _first_epoch(batches: Iterable[Any], count: int, size: int) -> Iterator[Any]:
    """As many batches of ``size`` as hold ``count`` rows."""
    return (batch for _, batch in zip(range(math.ceil(count / size)), batches, strict=False))


def conversation_loss(model: Model, batches: Iterable[Batch], count: int, size: int) -> Measure:
    """What is trained -> ``loss``: nats per answer token over all of ``count`` conversations.

    Args:
        model: The base, without what is trained.
        batches: Of ``size`` conversations.
        count: How many there are.
        size: Of a batch.
    """
    sums = jax.jit(functools.partial(sft_loss, model.config))
    places = np.array(held_rows(model.mesh, size))

    def measured(params: Params) -> dict[str, float]:
        total = np.zeros(2)
        with jax.set_mesh(model.mesh):
            for number, batch in enumerate(_first_epoch(batches, count, size)):
                known = (number * size + places < count)[:, None]
                batch = batch.replace(loss_mask=batch.loss_mask & known)
                total += on_host(sums(model.base, params, place_batch(model.mesh, batch)))
        loss, tokens = total
        return {"loss": float(loss / max(tokens, 1))}

    return measured


def pair_measure(model: Model, batches: Iterable[PreferenceBatch], count: int) -> Measure:
    """Adapter and head -> ``accuracy``, the share of ``count`` pairs whose preferred answer scores higher, and their
    mean Bradley-Terry ``loss``."""
    score = jax.jit(lambda base, role, batch: reward_scores(model.config, base, role, batch))

    def measured(role: Params) -> dict[str, float]:
        right: list[bool] = []
        margins: list[float] = []
        with jax.set_mesh(model.mesh):
            for pairs in batches:
                placed = place_batch(model.mesh, pairs)
                scores, choice = on_host((score(model.base, role, placed.batch), placed.choice))
                first, second = np.split(scores, 2)
                right.extend((second >= first) == (choice == 1))
                margins.extend((second - first) * (2.0 * choice - 1))
                if len(right) >= count:
                    break
        loss = np.logaddexp(0, -np.array(margins[:count], np.float64)).mean()
        return {"accuracy": float(np.mean(right[:count])), "loss": float(loss)}

    return measured


def rollout_measure(
    model: Model,
    settings: PpoSettings,
    frozen: Params,
    records: Sequence[Prompt],
    batches: Iterable[PromptBatch],
    size: int,
    seed: int,
) -> Measure:
    """Policy and value model -> means over an answer to each prompt, drawn as in training: ``reward`` (with all terms),
    ``score`` (reward model alone), ``kl`` (nats an answer), ``length`` and share ``ended``.

    Args:
        model: Base and tokenizer.
        settings: Of the steps.
        frozen: Reference and reward model, on the mesh.
        records: What the batches are made from.
        batches: Of ``size`` prompts.
        size: Of a batch.
        seed: Root of all draws, which are other ones than in training.
    """
    sample, judge = (jax.jit(functools.partial(part, model.config, settings)) for part in (sample_answers, measure))
    limit = settings.sampling.max_new_tokens

    def of_batch(params: Params, number: int, batch: PromptBatch) -> dict[str, np.ndarray]:
        placed = place_batch(model.mesh, batch)
        answer = sample(model.base, params, placed.prompt, key_for(seed, "held out", number))
        answer = as_wide_as_needed(settings, answer)
        found = judge(model.base, params, frozen, answer, placed)
        found, tokens, kinds = on_host((found, answer.tokens, placed.caption_type))
        texts = model.tokenizer.batch_decode(tokens, skip_special_tokens=True)
        right = [correctness(text, kind) for text, kind in zip(texts, kinds.tolist(), strict=True)]
        correct = np.array(right, np.float32)
        known = map(jnp.asarray, (found.scores, found.ended, found.lengths))
        rewards = total_reward(settings.terms, *known, limit, *map(jnp.asarray, (found.length_bonus, correct)))
        kl = np.where(found.mask, found.log_probs - found.reference_log_probs, 0.0).sum(1)
        told = {"score": found.scores, "kl": kl, "length": found.lengths, "ended": found.ended}
        return {"reward": np.asarray(rewards), **told}

    def measured(params: Params) -> dict[str, float]:
        with jax.set_mesh(model.mesh):
            epoch = enumerate(_first_epoch(batches, len(records), size))
            parts = [of_batch(params, number, batch) for number, batch in epoch]
        names = parts[0]
        whole = {name: np.concatenate([part[name] for part in parts])[: len(records)] for name in names}
        return {name: float(np.mean(values, dtype=np.float64)) for name, values in whole.items()}

    return measured
