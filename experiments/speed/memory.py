"""Peak resident memory of one side alone, in a process of its own."""

import importlib
import multiprocessing
import re
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from experiments.speed.cases import CORES, Case, Side, ours, theirs

_GIB = 2**30
# The first step holds what later ones do not; from the third on nothing changes.
_STEPS = 3


def peak_memory(case: Case, folder: Path, side: Side, variant: str) -> dict[str, float]:
    """GiB: ``imports`` before any weight is loaded, ``peak`` of everything, ``steps`` the peak of three steps alone,
    after loading and compiling.

    Linux only. A new process is started, not forked: a fork begins with its parent's memory.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_run, case, folder, side, variant).result()


def _run(case: Case, folder: Path, side: Side, variant: str) -> dict[str, float]:
    importlib.import_module("experiments.speed.ours" if side == "ours" else "experiments.speed.torch_ppo")
    if side == "torch":
        importlib.import_module("torch").set_num_threads(CORES)
    imports = _peak_gib()
    work = ours(case, folder) if side == "ours" else theirs(case, folder, variant)
    work.compile()
    before = _peak_gib()
    _forget_peak()
    for _ in range(_STEPS):
        work.step(None)
    steps = _peak_gib()
    return {name: round(gib, 3) for name, gib in (("imports", imports), ("peak", max(before, steps)), ("steps", steps))}


def _peak_gib() -> float:
    # Not getrusage: its peak starts from the parent's.
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) * 1024 / _GIB


def _forget_peak() -> None:
    """From here on the peak starts from what is resident now (proc(5))."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
