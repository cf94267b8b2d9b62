"""A step of PPO with its stops on the host: how long answers are, and what they say, for the log and rules of text."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from vlm_jax.arrays import Generation, Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.sources import Prompt
from vlm_jax.files import write_json_lines
from vlm_jax.parallel.compile import jit_step, place_batch
from vlm_jax.parallel.local_rows import held_rows
from vlm_jax.parallel.on_host import on_host
from vlm_jax.randomness import key_for
from vlm_jax.train.answer_width import cut, width_for
from vlm_jax.train.optim import TrainState
from vlm_jax.train.ppo import PpoSettings, measure, ppo_update, sample_answers
from vlm_jax.train.reward_terms import correctness


def rollout_and_update(
    model: Model,
    settings: PpoSettings,
    frozen: Params,
    state: TrainState,
    records: Sequence[Prompt],
    folder: Path,
    seed: int,
) -> Callable:
    """``(state, PromptBatch on the mesh) -> (state, metrics)``: rollout, log of the answers, update.

    Args:
        model: Base and tokenizer.
        settings: Of the steps.
        frozen: Reference and reward model, on the mesh.
        state: The first one; what it is sharded like.
        records: What the batches were made from.
        folder: Gets a file a rollout: ``id``, ``question``, ``answer`` and ``score`` of every answer.
        seed: Root of all draws.
    """
    sample, judge = (jax.jit(functools.partial(part, model.config, settings)) for part in (sample_answers, measure))
    update = jit_step(ppo_update, model.mesh, model.config, settings, state=state)
    folder.mkdir(parents=True, exist_ok=True)

    def step(state, batch):
        number = int(state.step) // (settings.epochs * settings.minibatches)
        answer = sample(model.base, state.params, batch.prompt, key_for(seed, "rollout", number))
        answer = as_wide_as_needed(settings, answer)
        measured = judge(model.base, state.params, frozen, answer, batch)
        answers, index, scores, kinds = on_host((answer.tokens, batch.index, measured.scores, batch.caption_type))
        texts = model.tokenizer.batch_decode(answers, skip_special_tokens=True)
        if jax.process_index() == 0:
            _log(folder / f"{number:05d}.jsonl", [records[i] for i in index], texts, scores)
        right = [correctness(text, kind) for text, kind in zip(texts, kinds.tolist(), strict=True)]
        correct = place_batch(model.mesh, np.array(right, np.float32)[held_rows(model.mesh, len(right))])
        return update(model.base, state, measured, correct, key_for(seed, "minibatches", number))

    return step


def as_wide_as_needed(settings: PpoSettings, answer: Generation) -> Generation:
    """Without slots that no answer reaches. Where padding counts, it is needed up to the limit."""
    if settings.pads == "counted":
        return answer
    return cut(answer, width_for(int(answer.lengths.max()), settings.sampling.max_new_tokens))


def _log(file: Path, asked: Sequence[Prompt], texts: Sequence[str], scores: np.ndarray) -> None:
    rows = [
        {"id": record.id, "question": record.turns[-1].text, "answer": text, "score": score}
        for record, text, score in zip(asked, texts, scores.tolist(), strict=True)
    ]
    write_json_lines(file, rows)
