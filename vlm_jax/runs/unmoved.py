"""Trained leaves that do not move: a silent way of training nothing."""

from typing import Any

import jax
import numpy as np

from vlm_jax.errors import DivergedError
from vlm_jax.parallel.mesh import path_name
from vlm_jax.runs.fingerprints import fingerprints
from vlm_jax.train.optim import TrainState

# By then everything has a gradient: a warm-up begins at rate 0, the second update moves what starts at 0 (B of an
# adapter, a value head), and the third what only those let a gradient through to.
_UPDATES = 3
_NAMED = 6  # Leaves that a complaint lists.


class UnmovedLeaves:
    """The leaves of a state that have not changed since the watch began.

    A projection whose A and B are both zero, as one is that an adapter leaves out, has no gradient and is not watched.
    """

    def __init__(self, state: TrainState):
        self._began, left_out = int(state.step), _left_out(state.params)
        self._first = {name: mark for name, mark in fingerprints(state.params).items() if name not in left_out}

    def after(self, state: TrainState, final: bool) -> "UnmovedLeaves | None":
        """Compare with a later state; None where everything has moved and nothing is left to watch.

        Args:
            state: The later one.
            final: Leaves that have still not moved are an error (if there were updates enough to move all).

        Raises:
            DivergedError: Names them.
        """
        now = fingerprints(state.params)
        self._first = {name: mark for name, mark in self._first.items() if now[name] == mark}
        if not self._first:
            return None
        updates = int(state.step) - self._began
        if final and updates >= _UPDATES:
            names = ", ".join(sorted(self._first)[:_NAMED])
            raise DivergedError(f"{len(self._first)} trained leaves did not move in {updates} updates: {names}")
        return self


def watch(state: TrainState) -> UnmovedLeaves | None:
    """The watch over a state that a run begins or goes on with; None once it has had updates enough."""
    return UnmovedLeaves(state) if int(state.step) < _UPDATES else None


def _left_out(params: Any) -> set[str]:
    """Paths of ``a`` and ``b`` where both are zero."""
    zero = jax.tree.map(lambda leaf: not np.asarray((leaf != 0).any()), params)
    zeros = {path_name(path) for path, is_zero in jax.tree_util.tree_leaves_with_path(zero) if is_zero}
    pairs = {name.removesuffix("/a") for name in zeros if name.endswith("/a")}
    return {f"{pair}/{part}" for pair in pairs if f"{pair}/b" in zeros for part in "ab"}
