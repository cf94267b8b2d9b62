"""A live line of progress."""

import math
import time
from collections.abc import Mapping
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

# A terminal that is no screen (a log file, a pipe) gets a line this often, in seconds.
_QUIET_INTERVAL = 10.0


class Meter:
    """A progress bar with rate, time left and the run's key metrics; plain lines where there is no terminal."""

    def __init__(self, title: str, total: int, done: int = 0, console: Console | None = None):
        self._title, self._total, self._first, self._done = title, total, done, done
        self._start = self._spoken = time.monotonic()
        self._console = console or Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.completed}/{task.total} {task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=self._console) if self._console.is_terminal else None
        self._task = self._bar.add_task(title, total=total, completed=done, note="") if self._bar else None

    def __enter__(self) -> "Meter":
        if self._bar:
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar:
            self._bar.stop()
        elif error is None and self._done > self._first:
            seconds = time.monotonic() - self._start
            self._console.print(f"{self._title}: {self._done}/{self._total} done in {seconds:.0f} s", soft_wrap=True)

    def update(self, done: int, metrics: Mapping[str, int | float] | None = None) -> None:
        """Report that ``done`` units are finished."""
        self._done = done
        now = time.monotonic()
        note = " ".join(f"{name} {_figure(value)}" for name, value in (metrics or {}).items())
        if self._bar:
            self._bar.update(self._task, completed=done, note=note)
        elif now - self._spoken > _QUIET_INTERVAL and done < self._total:
            self._spoken = now
            rate = (done - self._first) / (now - self._start)
            left = (self._total - done) / rate if rate > 0 else math.inf
            line = f"{self._title}: {done}/{self._total}, {rate:.2f}/s, {left:.0f} s left {note}"
            self._console.print(line.rstrip(), soft_wrap=True)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
