"""How fast a run is: the work between two lines of its log, over the time between them.

Nothing here waits for the devices but once, after the first step: the log waits for them, and between two of its lines
the clock on the wall is right.
"""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from vlm_jax.parallel.local_rows import held_parts, parts_of
from vlm_jax.planning.chips import Number, peak_flops
from vlm_jax.runs.work import Count, Work

_STATUS = Path("/proc/self/status")


class Clock:
    """Steps, work and waiting since the last line of the log, from the second step on: the first one compiles."""

    def __init__(self, mesh: Mesh, count: Count | None):
        """
        Args:
            mesh: Whose devices work.
            count: What a batch is in work; without, only time is told.
        """
        self._mesh, self._count = mesh, count
        # Of several processes each makes some of the rows; one's stand for all.
        self._share = parts_of(mesh) / len(held_parts(mesh))
        self._entered = time.perf_counter()
        self._first: float | None = None
        self._told = False
        self.restart()

    def restart(self) -> None:
        """Begin to count: what comes between a line of the log and the next step is no work of a step."""
        self._began, self._waited, self._steps = time.perf_counter(), 0.0, 0
        self._work: list[Callable[[Mapping[str, float]], Work]] = []

    def next_batch(self, batches: Iterator[Any]) -> Any:
        """The next one, which others may still be making."""
        began = time.perf_counter()
        batch = next(batches)
        self._waited += time.perf_counter() - began
        if self._count is not None:
            self._work.append(self._count(batch))
        self._steps += 1
        return batch

    def stepped(self, metrics: Any) -> None:
        """After each step. The first one is waited for, and is not counted among the others."""
        if self._first is None:
            jax.block_until_ready(metrics)
            self._first = time.perf_counter() - self._entered
            self.restart()

    def read(self, metrics: Mapping[str, float]) -> dict[str, Number]:
        """What is known of the steps since; call when the last one's metrics have come.

        Returns:
            The first time ``first_step_seconds`` (from the start of the loop, compiling included). The peak of memory
            in bytes, of the fullest device or, where devices do not tell, of the process. If there was a step since:
            ``step_seconds``, ``data_wait`` (share of the time), ``tokens_per_second`` (real ones),
            ``positions_per_second`` (padding included), ``samples_per_second``, ``mfu`` and ``hfu`` (shares of the
            devices' published peak). What is not known is left out.
        """
        seconds = time.perf_counter() - self._began
        told = peak_memory(self._mesh)
        if not self._told and self._first is not None:
            told["first_step_seconds"], self._told = self._first, True
        if not self._steps:
            return told
        told |= {"step_seconds": seconds / self._steps, "data_wait": self._waited / seconds}
        work = sum((one(metrics) for one in self._work), Work()).times(self._share)
        rates = {"tokens": work.tokens, "positions": work.positions, "samples": work.samples}
        told |= {f"{name}_per_second": number / seconds for name, number in rates.items() if number}
        return told | utilisation(self._mesh, work, seconds)


def utilisation(mesh: Mesh, work: Work, seconds: float) -> dict[str, Number]:
    """``mfu`` and ``hfu``, each where the operations and the devices' peak are known."""
    peak = peak_flops(mesh.devices.flat[0].device_kind)
    if peak is None:
        return {}
    shares = {"mfu": work.model_flops, "hfu": work.hardware_flops}
    return {name: number / (seconds * peak * mesh.size) for name, number in shares.items() if number}


def peak_memory(mesh: Mesh) -> dict[str, Number]:
    """``device_peak_bytes``, or ``host_peak_bytes``; nothing where nobody tells."""
    stats = [device.memory_stats() or {} for device in mesh.local_devices]
    if all("peak_bytes_in_use" in one for one in stats):
        return {"device_peak_bytes": max(one["peak_bytes_in_use"] for one in stats)}
    try:
        found = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
    except OSError:
        # Not Linux.
        return {}
    return {"host_peak_bytes": 1024 * int(found[1])} if found else {}
