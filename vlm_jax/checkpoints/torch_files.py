"""Tensors of torch's own files (``.bin``, ``.pt``, files without an ending), without running anything they hold.

torch is an optional extra. ``weights_only`` limits unpickling to tensors and plain containers: a file that asks for
more is refused, whatever it is.
"""

import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vlm_jax.errors import InputError
from vlm_jax.files import refuse_pointer

_SAFE_TORCH = (2, 6)
_KINDS = ("float64", "float32", "float16", "bfloat16", "int64", "int32", "int8", "uint8", "bool")
_NAMED = 8  # Tensors that a complaint lists by name.
# NumPy has no type of its own for what torch calls these; same-sized integers carry the bits over.
_CARRIED = {"torch.bfloat16": ("int16", ml_dtypes.bfloat16)}


class TorchFile:
    """The tensors of one pickled state dict. Modern files are mapped into memory, not read whole."""

    def __init__(self, path: Path):
        """Raises:
        InputError: torch is not installed, the file is missing or broken, it holds more than tensors by name, or
            it would run code.
        """
        self.path = path
        refuse_pointer(path)
        self._tensors = _load(path)

    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}

    def dtypes(self) -> dict[str, np.dtype]:
        kinds = {name: str(tensor.dtype) for name, tensor in self._tensors.items()}
        return {
            name: np.dtype(_CARRIED[kind][1] if kind in _CARRIED else kind.removeprefix("torch."))
            for name, kind in kinds.items()
        }

    def read(self, name: str) -> np.ndarray:
        tensor = self._tensors[name].contiguous()
        if str(tensor.dtype) not in _CARRIED:
            return tensor.numpy()
        import torch

        integer, kind = _CARRIED[str(tensor.dtype)]
        return tensor.view(getattr(torch, integer)).numpy().view(kind)


def _load(path: Path) -> dict[str, Any]:
    torch = _torch(path)
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        # torch's own words advise to load it without the check.
        asked = re.search(r"(?:Unsupported global: GLOBAL|Unsupported class) ([\w.]+)", str(error))
        found = f"a pickle that asks for {asked[1]}" if asked else "no torch file, or a pickle of more than tensors"
        raise InputError(f"{found}; it was not loaded", "tensors by name", file=str(path)) from None
    except MemoryError:
        raise
    except Exception as error:  # Damage shows as whatever the unpickler then happened to do.
        found = f"a file that torch cannot read ({str(error).splitlines()[0] if str(error) else 'it ends early'})"
        raise InputError(found, "a complete torch file", file=str(path)) from None
    if not isinstance(loaded, dict):
        raise InputError(f"a {type(loaded).__name__}", "tensors by name", file=str(path))
    if odd := [f"{name!r} ({why})" for name, value in loaded.items() if (why := _oddness(torch, name, value))]:
        wanted = f"dense tensors by name, of {', '.join(_KINDS)}"
        raise InputError(f"{', '.join(odd[:_NAMED])}{', ...' if odd[_NAMED:] else ''}", wanted, file=str(path))
    # Parameters ask for gradients, which NumPy does not carry.
    return {name: value.detach() for name, value in loaded.items()}


def _oddness(torch: Any, name: Any, value: Any) -> str:
    """Why an entry is no array by a name; empty where it is one."""
    if not isinstance(name, str):
        return f"a name of type {type(name).__name__}"
    if not torch.is_tensor(value):
        return type(value).__name__
    kind = str(value.dtype).removeprefix("torch.")
    reasons = {
        kind: kind not in _KINDS,
        "nested": value.is_nested,
        str(value.layout).removeprefix("torch."): value.layout != torch.strided,
        f"on {value.device}": value.device.type != "cpu",
        "a view that negates": value.is_neg(),
    }
    return next((why for why, holds in reasons.items() if holds), "")


def _torch(path: Path) -> Any:
    """torch, if it is there and recent enough that ``weights_only`` holds what it promises."""
    try:
        import torch
    except ImportError:
        found = "a torch file, and no torch to read it with"
        raise InputError(found, "pip install 'vlm-jax[torch]'", file=str(path)) from None
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SAFE_TORCH:
        found = f"a torch file, and torch {torch.__version__}, whose weights_only can be got round (CVE-2025-32434)"
        raise InputError(found, "torch 2.6 or later", file=str(path))
    return torch
