"""Reading a folder's tensors, in one file or in shards with an index, and writing them as safetensors.

safetensors are read without torch; torch's own files need the extra ``torch``.

Layout of the index: ``{"metadata": {"total_size": bytes}, "weight_map": {tensor name: file name}}``, as
transformers' ``save_pretrained`` writes it.
"""

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import ml_dtypes  # Registers bfloat16 with NumPy, which safetensors asks for by name.
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from vlm_jax.checkpoints.layouts import normalised
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, refuse_pointer, write_json

if TYPE_CHECKING:
    from vlm_jax.checkpoints.torch_files import TorchFile

_SHARD_BYTES = 5 * 2**30
_NAMED = 8  # Tensors that a complaint lists by name.
# safetensors' names of the types that occur in checkpoints.
TYPES = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I8": np.dtype(np.int8),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
}
# Names of unsharded weights; safetensors first, since they need no torch.
_WHOLE = ("model.safetensors", "pytorch_model.bin")
# What people take for weights.
_OTHERS = re.compile(r"\.(safetensors|bin|pth?|ckpt|gguf)$|^zero_to_fp32\.py$")
_ADVICE = (
    (
        r"^(mm_projector|non_lora_trainables)\.",
        "a projector's file goes behind --projector, to its LLaMA's folder",
    ),
    (r"\.gguf$", "llama.cpp's GGUF is not read: the checkpoint that it was made from"),
    (r"^zero_to_fp32\.py$", "DeepSpeed's zero_to_fp32.py gathers them"),
)


class TensorFile:
    """The tensors of one safetensors file, read one at a time."""

    def __init__(self, path: Path):
        """Raises:
        InputError: The file is missing, may not be read, is cut short or not safetensors.
        """
        self.path = path
        # safetensors has one word for a file that is not there and for one that may not be read.
        refuse_pointer(path)
        try:
            self._file = safe_open(path, framework="numpy")
        except (SafetensorError, OSError) as error:
            raise InputError(str(error), "a complete safetensors file", file=str(path)) from None

    def shapes(self) -> dict[str, tuple[int, ...]]:
        names = self._file.keys()
        return {name: tuple(self._file.get_slice(name).get_shape()) for name in names}

    def dtypes(self) -> dict[str, np.dtype]:
        """Raises:
        InputError: A tensor's type is none that weights or old buffers have.
        """
        names = self._file.keys()
        kinds = {name: self._file.get_slice(name).get_dtype() for name in names}
        if odd := [f"{name} {kind}" for name, kind in kinds.items() if kind not in TYPES]:
            raise InputError("; ".join(odd[:_NAMED]), f"types among {', '.join(TYPES)}", file=str(self.path))
        return {name: TYPES[kind] for name, kind in kinds.items()}

    def read(self, name: str) -> np.ndarray:
        return self._file.get_tensor(name)


def open_file(path: Path) -> "TensorFile | TorchFile":
    """A file of tensors by name, in safetensors or torch's format.

    Raises:
        InputError: As in either class, or a tensor has no values.
    """
    file = TensorFile(path) if path.suffix == ".safetensors" else _torch_file(path)
    if empty := sorted(name for name, shape in file.shapes().items() if 0 in shape):
        found = f"{len(empty)} tensors without values: {', '.join(empty[:_NAMED])}{', ...' if empty[_NAMED:] else ''}"
        wanted = "their values, which DeepSpeed's ZeRO-3 leaves out until its zero_to_fp32.py gathers them"
        raise InputError(found, wanted, file=str(path))
    return file


def _torch_file(path: Path) -> "TorchFile":
    from vlm_jax.checkpoints.torch_files import TorchFile

    return TorchFile(path)


class TensorFolder:
    """All tensors of a folder, whichever files they lie in, or of one file. ``path`` is what to name in a complaint.

    One file at a time is open: an open file's pages count as this process' memory.
    """

    def __init__(self, folder: Path):
        """Raises:
        InputError: No weights, a missing or broken file, or an index that disagrees with its files.
        """
        self.path, self.files, indexed = weight_files(folder)
        self._open: TensorFile | TorchFile | None = None
        self.home: dict[str, Path] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.dtypes: dict[str, np.dtype] = {}
        for path in self.files:
            shapes = self._file(path).shapes()
            self.shapes |= shapes
            self.dtypes |= self._file(path).dtypes()
            self.home |= dict.fromkeys(shapes, path)
        if not indexed:
            return
        if lost := [f"{name} in {home}" for name, home in indexed.items() if self.home.get(name) != folder / home]:
            found = f"{len(lost)} tensors that are not where it says: {', '.join(lost[:_NAMED])}"
            raise InputError(found, "an index of these files", file=str(self.path))
        if more := [f"{name} in {self.home[name].name}" for name in normalised(self.home.keys() - indexed.keys(), ())]:
            found = f"{len(more)} tensors that it leaves out: {', '.join(sorted(more)[:_NAMED])}"
            raise InputError(found, "an index of these files", file=str(self.path))

    def read(self, name: str) -> np.ndarray:
        """One tensor; quick where tensors of one file are read in turn."""
        return self._file(self.home[name]).read(name)

    def _file(self, path: Path) -> "TensorFile | TorchFile":
        if self._open is None or self._open.path != path:
            self._open = None
            self._open = open_file(path)
        return self._open


class WeightFiles(NamedTuple):
    """Where a folder's tensors lie.

    Attributes:
        path: The file that says what there is.
        files: All files of tensors.
        indexed: Tensor name -> file name, of the index; empty for a single file.
    """

    path: Path
    files: list[Path]
    indexed: dict[str, str]


def weight_files(folder: Path) -> WeightFiles:
    """The files that a folder's tensors (or those of one file) are read from.

    Raises:
        InputError: No weights, a broken index, or whole weights with an index beside them: transformers reads the
            former, and which of them is the stale one no file says.
    """
    if folder.is_file():
        return WeightFiles(folder, [folder], {})
    if not folder.exists():
        raise InputError("no such file or folder", "weights", file=str(folder))
    for name in _WHOLE:
        index, whole = folder / f"{name}.index.json", folder / name
        if index.exists() and whole.exists():
            raise InputError(f"{name} and {index.name}", "one of them: the other is stale", file=str(folder))
        if index.exists():
            weight_map = _weight_map(index)
            return WeightFiles(index, [folder / file for file in sorted(set(weight_map.values()))], weight_map)
        if whole.exists():
            return WeightFiles(whole, [whole], {})
    found, wanted = _what_else(folder)
    raise InputError(f"no weights{found}", f"{' or '.join(_WHOLE)}{wanted}", file=str(folder))


def _what_else(folder: Path) -> tuple[str, str]:
    """What lies in a folder in place of weights, and what that is good for; empty where nothing does."""
    there = sorted(path.name for path in folder.iterdir() if _OTHERS.search(path.name))
    if not there:
        return "", ""
    advice = [text for pattern, text in _ADVICE if any(re.search(pattern, name) for name in there)]
    return f", but {', '.join(there[:_NAMED])}", "".join(f"; {text}" for text in advice)


def _weight_map(index: Path) -> dict[str, str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(file, str) for file in names.values()):
        raise InputError("no tensor names", "an object weight_map of tensor name to file", file=str(index))
    if odd := sorted({file for file in names.values() if not _stays_inside(file)}):
        raise InputError(f"files {odd[:_NAMED]}", "files of this folder", file=str(index))
    return names


def _stays_inside(file: str) -> bool:
    path = Path(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts and "\0" not in file


def save_tensors(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """One file; safetensors writes an array's buffer as it lies in memory, transposed ones have to be copied."""
    solid = {name: np.ascontiguousarray(tensor).reshape(tensor.shape) for name, tensor in tensors.items()}
    # transformers refuses a file that does not name its framework.
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(solid, path, metadata={"format": "pt"})
        # safetensors writes what its owner alone may read, whatever the umask says.
        path.chmod(mode)
    except SafetensorError as error:
        # Its own error hides the system's, a full disk's say.
        if (number := re.search(r"os error (\d+)", str(error))) is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from None


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
        # A transposed view is copied by safetensors in any case; done here, the shard holds the copy alone.
        shard[name] = np.ascontiguousarray(tensor).reshape(tensor.shape)
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
