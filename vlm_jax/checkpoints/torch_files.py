"""Tensors of torch's own files (``.bin``, ``.pt``, files without an ending), without running anything they hold.

torch is an optional extra. ``weights_only`` limits unpickling to tensors and plain containers: a file that asks for
more is refused, whatever it is.
"""

import pickle
import zipfile
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vlm_jax.errors import InputError

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
        if not path.is_file():
            raise InputError("no such file", "a torch file", file=str(path))
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
        tensor = self._tensors[name].detach().contiguous()
        if str(tensor.dtype) not in _CARRIED:
            return tensor.numpy()
        import torch

        integer, kind = _CARRIED[str(tensor.dtype)]
        return tensor.view(getattr(torch, integer)).numpy().view(kind)


def _load(path: Path) -> dict[str, Any]:
    try:
        import torch
    except ImportError:
        raise InputError(
            "a torch file, and no torch to read it with", "pip install 'vlm-jax[torch]'", file=str(path)
        ) from None
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except pickle.UnpicklingError as error:
        reason = str(error).split("\n")[0]
        raise InputError(
            f"a pickle that is refused ({reason})", "tensors by name and nothing else", file=str(path)
        ) from None
    except (RuntimeError, EOFError, ValueError, OSError) as error:
        found = f"a file that torch cannot read ({str(error).splitlines()[0] if str(error) else 'it ends early'})"
        raise InputError(found, "a complete torch file", file=str(path)) from None
    if not isinstance(loaded, dict):
        raise InputError(f"a {type(loaded).__name__}", "tensors by name", file=str(path))
    if odd := [f"{name} ({type(value).__name__})" for name, value in loaded.items() if not torch.is_tensor(value)]:
        raise InputError(", ".join(odd), "tensors by name", file=str(path))
    return loaded
