"""Two sides in turn, one repetition each."""

import contextlib
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np

from experiments.speed.work import Figures, Work

# Threads of one side wait for more work a while before they sleep, and would take the other's cores.
_PAUSE = 0.1


def seconds_of(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def alternate(works: Mapping[str, Work], repetitions: int) -> dict[str, list[float]]:
    """Seconds of every repetition of every side, which take turns; the order of a round changes with each."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for number in range(repetitions):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            time.sleep(_PAUSE)
            found[name].append(seconds_of(lambda name=name: works[name].step(None)))
    return found


@contextlib.contextmanager
def others_share() -> Iterator[list[float]]:
    """Of this process's cores, how much other processes took while the block ran (0 to 1, Linux); in a list at the end.

    The system's own counts of 10 ms each: a few thousandths mean nothing.
    """
    found: list[float] = []
    began, all_busy, busy = time.perf_counter(), _busy_seconds(), time.process_time()
    yield found
    others = _busy_seconds() - all_busy - (time.process_time() - busy)
    cores = len(os.sched_getaffinity(0))
    share = others / cores / (time.perf_counter() - began)
    found.append(round(min(max(share, 0.0), 1.0), 4))


def _busy_seconds() -> float:
    """Of this process's cores since the system began, by whomever (proc(5), /proc/stat)."""
    ticks = 0
    for core in os.sched_getaffinity(0):
        line = re.search(rf"^cpu{core} (.*)$", Path("/proc/stat").read_text(encoding="utf-8"), re.MULTILINE)
        user, nice, system, _, _, interrupts, soft, stolen, *_ = map(int, line[1].split())
        ticks += user + nice + system + interrupts + soft + stolen
    return ticks / os.sysconf("SC_CLK_TCK")


def differences(one: Figures, other: Figures) -> dict[str, float]:
    """Largest difference of every figure that both have found, relative where it is above 1; of ids the share."""
    found = {}
    for name in sorted(one.keys() & other.keys()):
        left, right = np.asarray(one[name]), np.asarray(other[name])
        if left.shape != right.shape:
            raise ValueError(f"{name}: {left.shape} and {right.shape}")
        if np.issubdtype(left.dtype, np.integer):
            found[name] = float((left != right).mean())
        else:
            found[name] = float((np.abs(left.astype(float) - right) / np.maximum(1, np.abs(left))).max())
    return found
