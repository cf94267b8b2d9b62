"""Arrays on devices as NumPy arrays, also where no process holds all of them: then every process has to ask."""

from typing import Any

import jax
import numpy as np


def on_host(tree: Any) -> Any:
    """Every leaf whole, on every process."""
    return jax.tree.map(_whole, tree)


def on_first_host(tree: Any) -> Any:
    """Every leaf whole on process 0, leaf after leaf; None for every leaf elsewhere."""
    return jax.tree.map(lambda leaf: _kept(_whole(leaf)), tree)


def _kept(whole: np.ndarray) -> np.ndarray | None:
    return whole if jax.process_index() == 0 else None


def _whole(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    if leaf.ndim > 2:
        # A stack of layers may be more than one device holds.
        return np.stack([_whole(leaf[layer]) for layer in range(len(leaf))])
    from jax.experimental import multihost_utils

    return multihost_utils.process_allgather(leaf, tiled=True)
