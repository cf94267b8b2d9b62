"""A command as a process of its own, with its time and memory."""

import os
import subprocess
import sys
import time
from pathlib import Path

_GIB = 2**30


def measured(*arguments: str | Path, cores: int | None = None) -> dict:
    """Runs ``vlm-jax`` with these arguments; wall and CPU seconds, peak resident memory of the process and its output.

    Args:
        arguments: Of the command.
        cores: How many it may use; all without.
    """
    code = (
        "import re, sys, time\n"
        "from vlm_jax.cli import main\n"
        "main(sys.argv[1:])\n"
        "print('cpu', time.process_time())\n"
        # Not getrusage: its peak starts from the parent's.
        "print('peak', re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    began = time.monotonic()
    line = [sys.executable, "-c", code, *map(str, arguments)]
    mine = sorted(os.sched_getaffinity(0))[:cores]
    done = subprocess.run(
        line, capture_output=True, text=True, check=False, preexec_fn=lambda: os.sched_setaffinity(0, mine)
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(map(str, arguments))}: {done.stderr[-2000:]}")
    *output, cpu, peak = done.stdout.splitlines()
    return {
        "seconds": round(time.monotonic() - began, 1),
        "cpu_seconds": round(float(cpu.split()[1]), 1),
        # In KiB.
        "peak_gib": round(int(peak.split()[1]) * 1024 / _GIB, 2),
        "output": output,
    }
