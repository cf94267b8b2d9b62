"""Saving and resuming a training run: adapters or weights being trained, optimizer, step and position in the data.

    folder/lock            held by the process that runs
    folder/run.json        settings, inputs and where the frozen base comes from (its bytes are never copied)
    folder/steps/<step>/   one orbax checkpoint each, the newest two kept; the data state is in its custom metadata

Several processes save and read together, each what its devices hold, in a folder that all of them see.

Only this file knows orbax (its v1 API). Orbax hands out damaged arrays without a word, so every leaf is saved with a
fingerprint and compared when it comes back.
"""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import jax
from jax.experimental import multihost_utils
from orbax.checkpoint import v1 as ocp

from vlm_jax import provenance
from vlm_jax.errors import InputError, differences
from vlm_jax.files import locked
from vlm_jax.parallel.mesh import path_name
from vlm_jax.runs.fingerprints import fingerprints

_KEPT = 2
# Errors of the machine, not of what is stored.
_NOT_THE_FILES_FAULT = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO)
# What a disk takes no more with; orbax has them as text.
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What stands beside run.json from a run's first step on: its log, and the answers of its rollouts.
_WRITTEN = ("metrics.jsonl", "speed.jsonl", "tensorboard/events.out.tfevents.*", f"answers/{'[0-9]' * 5}.jsonl")
_NAMED = 6  # Leaves that a complaint lists.


class Restored(NamedTuple):
    state: Any
    data_state: dict[str, Any]
    step: int


class RunState:
    """The checkpoints of one run. Use as a context manager, or call :meth:`close`, so that the last save ends."""

    def __init__(self, folder: str | Path, made: Mapping[str, Any]):
        """Open the folder of a new run, or of an earlier one to go on with.

        Args:
            folder: Created where it does not exist.
            made: What decides the run, as :func:`~vlm_jax.runs.begin.begin` finds it.

        Raises:
            InputError: An earlier run in this folder was made from something else (names what differs), or nothing
                says from what; another process runs in it.
        """
        # Orbax wants it whole; links in a circle are met when it is made.
        folder = Path(os.path.realpath(folder))
        folder.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            if jax.process_index() == 0:
                held.enter_context(locked(folder / "lock"))
                _clear(folder)
                provenance.claim(folder / "run.json", made)
            if jax.process_count() > 1:
                multihost_utils.sync_global_devices("a place taken")
                _require_shared(folder)
                # Whether all are about the same.
                provenance.claim(folder / "run.json", made)
            logging.getLogger("absl").addFilter(_unless_disk_error)
            self._checkpointer = ocp.training.Checkpointer(
                folder / "steps", preservation_policy=ocp.training.preservation_policies.LatestN(_KEPT)
            )
            self._folder, self._held = folder, held.pop_all()

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
        metadata = {"data": data_state, "fingerprints": fingerprints(state)}
        with self._disk():
            # Without force, orbax drops a save that comes while another one runs, and says nothing.
            self._checkpointer.save_async(step, state, force=True, custom_metadata=metadata)

    def restore(self, abstract_state: Any) -> Restored:
        """The newest checkpoint, placed as asked: the mesh may differ from the one that it was saved on.

        Args:
            abstract_state: The state's structure with a ``jax.ShapeDtypeStruct`` and its sharding at every leaf.
                Types of optax states come from here, orbax does not store them.

        Raises:
            InputError: There is no checkpoint, its leaves differ in name, shape or dtype, or it is damaged. Nothing
                falls back to an older one by itself.
        """
        step = self.latest_step
        if step is None:
            raise InputError("no checkpoint", "at least one finished save", file=str(self._folder))
        try:
            metadata = self._checkpointer.metadata(step)
            stored, extra = metadata.metadata, metadata.custom_metadata
            if not jax.tree.leaves(stored):
                raise self._damaged(step, "no arrays can be found in it")
            _check_leaves(self._place(step), stored, abstract_state)
            state = self._checkpointer.load(step, abstract_state)
            data_state, marks = extra["data"], extra["fingerprints"]
        except (InputError, MemoryError, PermissionError):
            raise
        except Exception as error:
            # Orbax and its stores raise a type of their own for each file that may be missing, cut short or changed.
            text = str(error)
            if "RESOURCE_EXHAUSTED" in text or getattr(error, "errno", None) in _NOT_THE_FILES_FAULT:
                raise
            raise self._damaged(step, f"{type(error).__name__}: {text.partition(chr(10))[0][:200]}") from error
        if odd := sorted(name for name, mark in fingerprints(state).items() if mark != marks.get(name)):
            raise self._damaged(step, f"changed bytes in {', '.join(odd[:_NAMED])}")
        return Restored(state, data_state, step)

    def _place(self, step: int) -> Path:
        return self._folder / "steps" / str(step)

    def _damaged(self, step: int, reason: str) -> InputError:
        before = [one.step for one in self._checkpointer.checkpoints if one.step < step]
        wanted = f"a whole one; delete that folder to go on from step {max(before)}" if before else "a whole one"
        return InputError(f"a damaged checkpoint ({reason})", wanted, file=str(self._place(step)))

    def wait(self) -> None:
        """Block until the running save is on disk.

        Raises:
            OSError: The disk is full or takes no more for another reason; the checkpoints before stay as they are. The
                same from :meth:`save` and :meth:`close`, which learn it from the save before.
        """
        with self._disk():
            self._checkpointer.wait()

    def close(self) -> None:
        with self._held, self._disk():
            self._checkpointer.close()

    @contextlib.contextmanager
    def _disk(self) -> Iterator[None]:
        """Orbax's ValueError of a full disk as the OSError that it is."""
        try:
            yield
        except ValueError as error:
            number = _disk_error(str(error))
            if number is None:
                raise
            raise OSError(number, os.strerror(number), str(self._folder / "steps")) from None

    def __enter__(self) -> "RunState":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _require_shared(folder: Path) -> None:
    """Raises:
    InputError: What the first process has written is not there.
    """
    if not (folder / "run.json").exists():
        raise InputError("no run.json, which process 0 has written", "a folder that all hosts share", file=str(folder))


def _clear(folder: Path) -> None:
    """Remove what a kill left behind.

    Raises:
        InputError: Nothing says what the saved steps were made from.
    """
    steps = folder / "steps"
    if not (folder / "run.json").exists() and steps.exists() and any(steps.iterdir()):
        raise InputError("saved steps without run.json", "the settings that they belong to", file=str(folder))
    # In the middle of a save.
    for left in steps.glob("*.orbax-checkpoint-tmp"):
        shutil.rmtree(left)
    # A run that never saved a step is not in the way of one with other settings.
    if (folder / "run.json").exists() and not any(steps.glob("[0-9]*")):
        _forget(folder)


def _forget(folder: Path) -> None:
    """Remove what a run wrote that never saved a step, and no file of anybody else's."""
    written = [path for names in _WRITTEN for path in folder.glob(names)]
    for path in written:
        if path.is_file() and not path.is_symlink():
            path.unlink()
    # Last: who is killed in between finds the rest again.
    (folder / "run.json").unlink()


def _disk_error(text: str) -> int | None:
    """The number of the system's error that a text speaks of."""
    return next((number for number in _DISK_ERRORS if os.strerror(number) in text), None)


def _unless_disk_error(record: logging.LogRecord) -> bool:
    """Orbax logs every thread that a failed save runs through, a screen each, and then raises the error as well."""
    return _disk_error(f"{record.getMessage()} {record.exc_info}") is None


def _check_leaves(path: Path, stored: Any, wanted: Any) -> None:
    """Orbax converts dtypes without a word and reports shapes as a missing handler: compare before it reads."""

    def leaves(tree: Any) -> dict[str, str]:
        found = jax.tree_util.tree_leaves_with_path(tree)
        return {path_name(path): f"{leaf.dtype}{list(leaf.shape)}" for path, leaf in found}

    if odd := differences(leaves(stored), leaves(wanted)):
        raise InputError(odd, "the state that this run trains", file=str(path))
