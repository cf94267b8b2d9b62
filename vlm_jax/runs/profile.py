"""A trace of a few steps, for TensorBoard, XProf or Perfetto."""

from pathlib import Path
from types import TracebackType
from typing import Any

import jax

# Until everything is compiled that is compiled at the start.
_BEFORE = 2


class Profile:
    """Records ``folder/profile`` while the steps run that it is asked for; of several processes the first one does."""

    def __init__(self, folder: Path, steps: int | None, first: int, last: int):
        """
        Args:
            folder: Of the run.
            steps: How many; None for none.
            first: Steps that are behind the run; some more are let go by.
            last: Steps after which it ends.
        """
        self._folder, self._begin = folder / "profile", first + _BEFORE
        self._asked = steps is not None and jax.process_index() == 0
        self._end = min(self._begin + (steps or 0), last)
        self._open = False
        if self._asked and self._begin >= last:
            print(f"no profile: it begins after {_BEFORE} steps, and {last - first} are left")
            self._asked = False

    def after(self, done: int, metrics: Any) -> None:
        """Between two steps; waits for the devices where a trace begins or ends.

        Args:
            done: Steps so far.
            metrics: Of the last one.
        """
        if not self._asked or done not in (self._begin, self._end):
            return
        jax.block_until_ready(metrics)
        if done == self._begin:
            jax.profiler.start_trace(str(self._folder))
            self._open = True
        else:
            self._stop()
            print(f"profile of steps {self._begin} to {self._end - 1}: {self._folder}")

    def _stop(self) -> None:
        self._open = False
        jax.profiler.stop_trace()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._open:
            self._stop()
