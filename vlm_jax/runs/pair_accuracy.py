"""What is measured of a model at the end of its training."""

from collections.abc import Iterable

import jax
import numpy as np

from vlm_jax.arrays import Params, PreferenceBatch
from vlm_jax.checkpoints.opening import Model
from vlm_jax.parallel.compile import place_batch
from vlm_jax.parallel.on_host import on_host
from vlm_jax.train.reward import reward_scores


def ranked_as_chosen(model: Model, role: Params, batches: Iterable[PreferenceBatch], count: int) -> float:
    """Share of the first ``count`` pairs (one epoch holds every record once) whose preferred answer scores higher."""
    score = jax.jit(lambda base, role, batch: reward_scores(model.config, base, role, batch))
    right: list[bool] = []
    with jax.set_mesh(model.mesh):
        for pairs in batches:
            placed = place_batch(model.mesh, pairs)
            scores, choice = on_host((score(model.base, role, placed.batch), placed.choice))
            first, second = np.split(scores, 2)
            right.extend((second >= first) == (choice == 1))
            if len(right) >= count:
                break
    return float(np.mean(right[:count]))
