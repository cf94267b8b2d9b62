"""Text in, text out: answers to many prompts, batched by length."""

import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_jax.arrays import EvalBatch, Params
from vlm_jax.config import LlavaConfig
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.parallel.compile import place_batch
from vlm_jax.randomness import key_for


@functools.lru_cache(maxsize=32)
def _compiled(config: LlavaConfig, sampling: Sampling) -> Callable:
    """One compiled decoder for each shape; kept, so that several evaluations of one run share it."""
    return jax.jit(lambda base, lora, batch, key: generate(config, base, lora, batch, key, sampling).tokens)


def answer(
    config: LlavaConfig,
    base: Params,
    lora: Params,
    tokenizer: Any,
    mesh: Mesh,
    batches: Iterable[EvalBatch],
    sampling: Sampling,
    seed: int = 0,
    progress: Callable[[int], None] = lambda done: None,
) -> Sequence[str]:
    """The answer to every record, in the records' order; rows that only fill up a batch are dropped.

    Args:
        config, base, lora: Model and role, on the mesh.
        tokenizer: Turns ids into text; special tokens are left out.
        mesh: Where the batches go.
        batches: From ``data.pipelines.image_prompts``.
        sampling: The rule; a draw depends on the seed and the batch's place.
        seed: Root of the draws.
        progress: Told the number of answers so far.
    """
    run = _compiled(config, sampling)
    texts: dict[int, str] = {}
    with jax.set_mesh(mesh):
        for number, batch in enumerate(batches):
            tokens = run(base, lora, place_batch(mesh, batch.batch), key_for(seed, "answer", number))
            rows = np.flatnonzero(batch.row_mask)
            decoded = tokenizer.batch_decode(np.asarray(tokens)[rows], skip_special_tokens=True)
            texts.update(zip(batch.index[rows].tolist(), (text.strip() for text in decoded), strict=True))
            progress(len(texts))
    return [texts[index] for index in sorted(texts)]
