"""Saving and resuming a training run: adapters or weights being trained, optimizer, step and position in the data.

    folder/run.json        settings, inputs and where the frozen base comes from (its bytes are never copied)
    folder/steps/<step>/   one orbax checkpoint each, the newest two kept; the data state is in its custom metadata

Only this file knows orbax (its v1 API).
"""

from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
from orbax.checkpoint import v1 as ocp

from vlm_jax.checkpoints.provenance import BaseSource, claim
from vlm_jax.errors import InputError, differences
from vlm_jax.parallel.mesh import path_name

_KEPT = 2


class Restored(NamedTuple):
    state: Any
    data_state: dict[str, Any]
    step: int


class RunState:
    """The checkpoints of one run. Use as a context manager, or call :meth:`close`, so that the last save ends."""

    def __init__(self, folder: str | Path, identity: dict[str, Any], base: BaseSource):
        """Open the folder of a new run, or of an earlier one to go on with.

        Args:
            folder: Created where it does not exist.
            identity: What decides the run, as :func:`~vlm_jax.checkpoints.provenance.identity` gives it.
            base: The frozen weights.

        Raises:
            InputError: An earlier run in this folder had another identity or another base; names what differs.
        """
        folder = Path(folder).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        claim(folder / "run.json", identity, base)
        self._folder = folder
        self._checkpointer = ocp.training.Checkpointer(
            folder / "steps", preservation_policy=ocp.training.preservation_policies.LatestN(_KEPT)
        )

    @property
    def latest_step(self) -> int | None:
        """The newest complete checkpoint's step."""
        latest = self._checkpointer.latest
        return None if latest is None else latest.step

    def save(self, step: int, state: Any, data_state: dict[str, Any]) -> None:
        """Start a save and return; the arrays may be donated afterwards. Waits for a save that is still running.

        Args:
            step: Larger than every step saved so far.
            state: Nested dicts and optax states of arrays.
            data_state: What the data iterator needs to go on, in JSON types.
        """
        # Without force, orbax drops a save that comes while another one runs, and says nothing.
        self._checkpointer.save_async(step, state, force=True, custom_metadata={"data": data_state})

    def restore(self, abstract_state: Any) -> Restored:
        """The newest checkpoint, placed as asked: the mesh may differ from the one that it was saved on.

        Args:
            abstract_state: The state's structure with a ``jax.ShapeDtypeStruct`` and its sharding at every leaf.
                Types of optax states come from here, orbax does not store them.

        Raises:
            InputError: There is no checkpoint, or its leaves differ in name, shape or dtype.
        """
        step = self.latest_step
        if step is None:
            raise InputError("no checkpoint", "at least one finished save", file=str(self._folder))
        metadata = self._checkpointer.metadata(step)
        _check_leaves(self._folder / "steps" / str(step), metadata.metadata, abstract_state)
        state = self._checkpointer.load(step, abstract_state)
        return Restored(state, metadata.custom_metadata["data"], step)

    def wait(self) -> None:
        """Block until the running save is on disk."""
        self._checkpointer.wait()

    def close(self) -> None:
        self._checkpointer.close()

    def __enter__(self) -> "RunState":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _check_leaves(path: Path, stored: Any, wanted: Any) -> None:
    """Orbax converts dtypes without a word and reports shapes as a missing handler: compare before it reads."""

    def leaves(tree: Any) -> dict[str, str]:
        found = jax.tree_util.tree_leaves_with_path(tree)
        return {path_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in found}

    if odd := differences(leaves(stored), leaves(wanted)):
        raise InputError(odd, "the state that this run trains", file=str(path))
