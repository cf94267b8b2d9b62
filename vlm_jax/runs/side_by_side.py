"""Several pieces of one run at a time, each in a process of its own on its share of the cores.

Small arrays keep few cores busy, so pieces that share nothing but files gain from running beside each other. What each
prints gets its name in front, SIGTERM reaches all of them, and none outlives the process that began it.
"""

import contextlib
import io
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TextIO

from vlm_jax.errors import TerminatedError
from vlm_jax.parallel import compile_cache
from vlm_jax.runs.termination import on_termination

# In a worker, what SIGTERM sets to 1.
_ended: Any = None


def side_by_side(pieces: Mapping[str, Callable[[], Any]], at_a_time: int = 2) -> dict[str, Any]:
    """The results of functions that can be pickled, by name; they begin in the order of ``pieces``.

    Raises:
        Exception: What a piece raised, as soon as it has; the others are ended as by SIGTERM.
        TerminatedError: SIGTERM came. A piece that trains has saved where it stands, another has ended at once.
    """
    context = multiprocessing.get_context("spawn")
    # Without a lock: a signal's handler must not wait for one.
    ended = context.Value("b", 0, lock=False)
    shared = (context.Value("i", 0), at_a_time, ended)
    with _passing_on_termination(ended), ProcessPoolExecutor(at_a_time, context, _take_share, shared) as pool:
        waiting = {name: pool.submit(run_named, name, piece) for name, piece in pieces.items()}
        done, _ = wait(waiting.values(), return_when=FIRST_EXCEPTION)
        for failed in (future for future in done if future.exception() is not None):
            # At once, not when the others have trained to their ends; those save where they stand.
            _end(ended)
            failed.result()
        return {name: future.result() for name, future in waiting.items()}


def run_named(name: str, piece: Callable[[], Any]) -> Any:
    """One piece, its lines named.

    Raises:
        TerminatedError: SIGTERM came, perhaps before this began.
    """
    if _ended is not None and _ended.value:
        raise TerminatedError("terminated")
    with contextlib.redirect_stdout(_Named(name, sys.stdout)):
        return piece()


@contextlib.contextmanager
def _passing_on_termination(ended: Any) -> Iterator[None]:
    """SIGTERM goes to the workers: one that trains saves where it stands and ends, another ends at once.

    Args:
        ended: Set to 1, which keeps a worker that has saved from beginning the next piece: the pool has handed that
            to it already, so that cancelling comes too late.

    Raises:
        TerminatedError: It came.
    """
    asked = threading.Event()

    def pass_on() -> None:
        asked.set()
        _end(ended)

    with on_termination(pass_on):
        try:
            yield
        except BrokenProcessPool:
            if not asked.is_set():
                raise
            raise TerminatedError("terminated") from None


def _end(ended: Any) -> None:
    """End the workers, and keep them from beginning what waits."""
    ended.value = 1
    for worker in multiprocessing.active_children():
        worker.terminate()


def _take_share(started: Any, workers: int, ended: Any) -> None:
    """Begin a worker on its share of the cores; where several share a GPU, none may take all of its memory.

    A worker whose parent was killed must not go on: the next run would write the same files.
    """
    global _ended
    _ended, parent = ended, multiprocessing.parent_process()
    threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    compile_cache.watch()
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    with started.get_lock():
        number, started.value = started.value, started.value + 1
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[number::workers] or cores)


class _Named(io.TextIOBase):
    """Standard output with a name before every line, so that several can talk at once."""

    def __init__(self, name: str, stream: TextIO):
        self._name, self._stream, self._line = name, stream, ""

    def write(self, text: str) -> int:
        *lines, self._line = (self._line + text).split("\n")
        for line in lines:
            self._stream.write(f"{self._name:9} | {line}\n")
        self._stream.flush()
        return len(text)
