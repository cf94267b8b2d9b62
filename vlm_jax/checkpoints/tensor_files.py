"""Reading and writing a folder's safetensors, in one file or in shards with an index, without torch.

Layout of the index: ``{"metadata": {"total_size": bytes}, "weight_map": {tensor name: file name}}``, as
transformers' ``save_pretrained`` writes it.
"""

from collections.abc import Iterable
from pathlib import Path

import ml_dtypes  # noqa: F401  (registers bfloat16 with NumPy, which safetensors asks for by name)
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vlm_jax.errors import InputError
from vlm_jax.files import read_json, write_json

_SHARD_BYTES = 5 * 2**30


class TensorFile:
    """The tensors of one safetensors file, read one at a time."""

    def __init__(self, path: Path):
        """Raises:
        InputError: The file is missing, cut short or not safetensors.
        """
        self.path = path
        try:
            self._file = safe_open(path, framework="numpy")
        except FileNotFoundError:
            raise InputError("no such file", "a safetensors file", file=str(path)) from None
        except SafetensorError as error:
            raise InputError(str(error), "a complete safetensors file", file=str(path)) from None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        names = self._file.keys()
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in names}

    def read(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)


class TensorFolder:
    """All tensors of a folder, whichever files they lie in. ``path`` is the file to name in a complaint."""

    def __init__(self, folder: Path):
        """Raises:
        InputError: No weights, or a missing or broken file.
        """
        index = folder / "model.safetensors.index.json"
        if not index.exists():
            self.path = folder / "model.safetensors"
            files = [TensorFile(self.path)]
        else:
            self.path = index
            files = [TensorFile(folder / name) for name in sorted(set(_weight_map(index).values()))]
        self.shapes = {name: shape for file in files for name, shape in file.shapes().items()}
        self._home = {name: file for file in files for name in file.shapes()}

    def read(self, name: str) -> np.ndarray:
        return self._home[name].read(name)


def _weight_map(index: Path) -> dict[str, str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise InputError("no tensor names", "an object weight_map of tensor name to file", file=str(index))
    return names


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """One file; safetensors writes an array's buffer as it lies in memory, transposed ones have to be copied."""
    solid = {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in tensors.items()}
    # transformers refuses a file that does not name its framework.
    save_file(solid, path, metadata={"format": "pt"})


def write_tensors(folder: Path, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Write ``model.safetensors``, or numbered shards and their index once the tensors pass 5 GiB.

    The tensors are drawn one after the other and at most one shard of them is held in memory.
    """
    homes: dict[str, int] = {}
    shard: dict[str, np.ndarray] = {}
    held = total = written = 0

    def flush() -> None:
        save_tensors(folder / f"shard-{written}", shard)
        shard.clear()

    for name, tensor in tensors:
        if shard and held + tensor.nbytes > _SHARD_BYTES:
            flush()
            written, held = written + 1, 0
        shard[name] = tensor
        homes[name] = written
        held, total = held + tensor.nbytes, total + tensor.nbytes
    flush()
    if written == 0:
        (folder / "shard-0").rename(folder / "model.safetensors")
        return
    # How many shards there are is in each one's name, and known only now.
    names = [f"model-{i + 1:05d}-of-{written + 1:05d}.safetensors" for i in range(written + 1)]
    for number, name in enumerate(names):
        (folder / f"shard-{number}").rename(folder / name)
    weight_map = {name: names[number] for name, number in homes.items()}
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {"total_size": total}, "weight_map": weight_map},
    )
