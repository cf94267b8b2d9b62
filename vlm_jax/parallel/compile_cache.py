"""What XLA compiles is kept between runs, by jax itself; here is where, and what is said of a folder that is no use.

    JAX_COMPILATION_CACHE_DIR             another folder
    JAX_ENABLE_COMPILATION_CACHE=false    none

Programs for processors hold instructions that other processors may lack, and jax does not promise to tell them apart:
every kind of processor has a folder of its own, so that machines may share a home.
"""

import contextlib
import hashlib
import os
import platform
import re
import warnings
from pathlib import Path
from typing import Any

from vlm_jax.errors import note

_FOLDER, _ENABLED = "JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE"
# As jax spells no.
_NO = ("n", "no", "f", "false", "off", "0")
_PROCESSORS = Path("/proc/cpuinfo")
# What decides which instructions a processor knows, of x86 and of Arm.
_KIND = re.compile(r"^(?:vendor_id|cpu family|model|flags|CPU implementer|CPU part|Features)\s*:.*$", re.MULTILINE)
_TROUBLE = re.compile(r"Error (?:reading|writing) persistent compilation cache entry for '(.*?)': (.*)", re.DOTALL)


def start() -> None:
    """Name the folder to jax, which must not be imported yet; an environment that names one goes before."""
    if os.environ.get(_ENABLED, "").lower() in _NO:
        return
    if not os.environ.get(_FOLDER):
        try:
            folder = default_folder()
            # Whoever writes there decides what is run.
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (OSError, RuntimeError) as error:
            # No place there, or a user without a home.
            note("compiled programs", f"are not kept: {error}")
            return
        os.environ[_FOLDER] = str(folder)
    watch()


def default_folder() -> Path:
    """Below the user's cache, by kind of processor."""
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "vlm_jax" / "compiled" / processor()


def processor() -> str:
    """``x86_64-`` and a digest of what this machine's processor is and can."""
    try:
        said = _PROCESSORS.read_text().partition("\n\n")[0]
        known = "\n".join(_KIND.findall(said))
    except OSError:
        # Not Linux.
        known = platform.processor()
    return f"{platform.machine()}-{hashlib.sha256(known.encode()).hexdigest()[:12]}"


def watch() -> None:
    """One line in place of jax's warnings about entries that cannot be read or written; damaged ones are removed, since
    jax, which is killed now and then while it writes them, would read them again and again."""
    if isinstance(warnings.showwarning, _Shown):
        return
    warnings.showwarning = _Shown(warnings.showwarning)


class _Shown:
    """How warnings are shown."""

    def __init__(self, others: Any):
        self._others, self._told = others, False

    def __call__(self, message: Any, *where: Any, **how: Any) -> None:
        if (trouble := _TROUBLE.match(str(message))) is None:
            self._others(message, *where, **how)
            return
        folder, (name, reason) = Path(os.environ.get(_FOLDER, "")), trouble.groups()
        for entry in folder.glob(f"{name}-*-cache"):
            with contextlib.suppress(OSError):
                entry.unlink()
        if not self._told:
            self._told = True
            note(folder, f"a compiled program cannot be read or kept, and is compiled anew: {reason}")
