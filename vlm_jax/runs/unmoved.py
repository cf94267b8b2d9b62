"""Trained leaves that do not move: a silent way of training nothing."""

from typing import Any

from vlm_jax.errors import DivergedError
from vlm_jax.runs.fingerprints import fingerprints
from vlm_jax.train.optim import TrainState

# By then everything has a gradient: a warm-up begins at rate 0, the second update moves what starts at 0 (B of an
# adapter, a value head), and the third what only those let a gradient through to.
_UPDATES = 3
_NAMED = 6  # Leaves that a complaint lists.


class UnmovedLeaves:
    """The leaves of a state that have not changed since the first step."""

    def __init__(self, params: Any):
        self._first = fingerprints(params)

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
        updates = int(state.step)
        if final and updates >= _UPDATES:
            names = ", ".join(sorted(self._first)[:_NAMED])
            raise DivergedError(f"{len(self._first)} trained leaves did not move in {updates} updates: {names}")
        return self
