"""Text in, text out: answers to many prompts, batched by length."""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence

import jax
import numpy as np
from jaxtyping import Array

from vlm_jax.arrays import Batch, EvalBatch, Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.config import LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.llava import Edit
from vlm_jax.parallel.compile import place_batch
from vlm_jax.parallel.memory import require_answering
from vlm_jax.randomness import key_for


@functools.lru_cache(maxsize=32)
def _compiled(config: LlavaConfig, sampling: Sampling, edit: Callable[[Batch], Edit] | None, copies: int) -> Callable:
    """One compiled decoder for each shape; kept, so that several evaluations of one run share it."""

    def tokens_and_finite(base: Params, lora: Params, batch: Batch, key: Array) -> tuple[Array, Array]:
        prompts = batch if copies == 1 else jax.tree.map(lambda x: x[::copies], batch)
        made = generate(config, base, lora, prompts, key, sampling, edit, copies=copies)
        return made.tokens, made.finite

    return jax.jit(tokens_and_finite)


def answer_batches(
    model: Model,
    lora: Params,
    batches: Iterable[EvalBatch],
    sampling: Sampling,
    seed: int = 0,
    skip: Callable[[Sequence[int]], bool] = lambda records: False,
    edit: Callable[[Batch], Edit] | None = None,
    copies: int = 1,
) -> Iterator[dict[int, str]]:
    """Answers by record, batch after batch; rows that only fill up a batch are dropped.

    Args:
        model, lora: Checkpoint and role, on the mesh.
        batches: From ``data.pipelines.image_prompts``.
        sampling: The rule; a draw depends on the seed and the batch's place.
        seed: Root of the draws.
        skip: Told a batch's records; true leaves the batch out, which changes no other's draws.
        edit: A change of block outputs, see ``decode.generate``; hashable.
        copies: From the first row of a batch on, this many rows each have one prompt, which is then read once. No draw
            depends on it.

    Raises:
        InputError: Logits of an answer were not finite, or a batch does not fit into memory.
    """
    run = _compiled(model.config, sampling, edit, copies)
    with jax.set_mesh(model.mesh):
        for number, batch in enumerate(batches):
            rows = np.flatnonzero(batch.row_mask)
            records = batch.index[rows].tolist()
            if skip(records):
                continue
            require_answering(model, *batch.batch.tokens.shape, sampling.max_new_tokens)
            tokens, finite = run(
                model.base, lora, place_batch(model.mesh, batch.batch), key_for(seed, "answer", number)
            )
            _require_finite(np.asarray(finite)[rows], records)
            decoded = model.tokenizer.batch_decode(np.asarray(tokens)[rows], skip_special_tokens=True)
            yield dict(zip(records, (text.strip() for text in decoded), strict=True))


def _require_finite(finite: np.ndarray, records: Sequence[int]) -> None:
    if not finite.all():
        first = records[int(np.argmin(finite))] + 1
        found = (
            f"logits that are not finite in {int((~finite).sum())} of {len(finite)} answers, first to question {first}"
        )
        raise InputError(found, "a checkpoint and an adapter without NaN or infinity in them or in what they compute")


def answer(
    model: Model,
    lora: Params,
    batches: Iterable[EvalBatch],
    sampling: Sampling,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
    edit: Callable[[Batch], Edit] | None = None,
) -> Sequence[str]:
    """All of :func:`answer_batches` in the records' order; ``progress`` is told the number of answers so far."""
    texts: dict[int, str] = {}
    for answers in answer_batches(model, lora, batches, sampling, seed, edit=edit):
        texts |= answers
        progress(len(texts))
    return [texts[index] for index in sorted(texts)]
