"""Our own layout of a base: one safetensors file whose tensors are the leaves of the tree, layers stacked.

    folder/vlm_jax.json          format, config, dtype, quantisation, and where the weights came from
    folder/weights.safetensors   "language/blocks/attention/q/kernel", ... and ".../kernel/codes" of quantised ones
    folder/quantization.json     error of every quantised tensor
    folder/tokenizer files

The file has its final size from the start and every layer is written to its place, so a conversion holds one layer
at a time and one that was stopped goes on. Reading maps the file and hands each device its part alone.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.finite import finite
from vlm_jax.checkpoints.image_processor import parsed_steps
from vlm_jax.checkpoints.special_ids import KEYS, settle, tokenizer_beside
from vlm_jax.checkpoints.stored import StoredArray, place_stored
from vlm_jax.checkpoints.tensor_files import TYPES, TensorFile
from vlm_jax.config import LanguageConfig, LlavaConfig, LoraConfig, RopeScaling, VisionConfig
from vlm_jax.data.conversation import Tokenizer
from vlm_jax.errors import InputError, differences
from vlm_jax.files import read_json, write_json
from vlm_jax.models.llava import init_llava
from vlm_jax.models.quantize import Scheme, quantize_base
from vlm_jax.parallel.mesh import path_name

CONFIG_FILE, WEIGHTS_FILE, REPORT_FILE = "vlm_jax.json", "weights.safetensors", "quantization.json"
_FORMAT = 1


@dataclasses.dataclass(frozen=True)
class NativeInfo:
    """What vlm_jax.json says.

    Attributes:
        config: Of the tree.
        dtype: Of the weights that are not quantised, as asked for; None for each one's own.
        scheme: How the blocks' projections are quantised; None for not at all.
        source: Path, layout and sha256 of the checkpoint that was converted.
    """

    config: LlavaConfig
    dtype: str | None
    scheme: Scheme | None
    source: dict[str, str]


def base_shapes(config: LlavaConfig, dtypes: Mapping[str, Any], scheme: Scheme | None) -> Params:
    """The tree's shapes and types, as they are stored and computed with.

    Args:
        config: Of the tree.
        dtypes: Type of every leaf that is not part of a quantised kernel, by its name.
        scheme: How the blocks' projections are quantised.
    """

    def typed(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        return (
            leaf
            if _is_code(path)
            else jax.ShapeDtypeStruct(leaf.shape, np.dtype(dtypes.get(path_name(path), np.float32)))
        )

    fresh = jax.eval_shape(functools.partial(init_llava, config), jax.random.key(0))
    quantized = fresh if scheme is None else jax.eval_shape(functools.partial(quantize_base, scheme=scheme), fresh)
    return jax.tree_util.tree_map_with_path(typed, quantized)


def _is_code(path: Any) -> bool:
    """Whether a leaf is a part of a quantised kernel, whose types are its own."""
    return path_name(path).rpartition("/")[0].endswith("/kernel")


def leaves_of(tree: Params) -> dict[str, Any]:
    """Leaves by the names that the file gives them."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def write_info(folder: Path, info: NativeInfo) -> None:
    write_json(folder / CONFIG_FILE, {"format": _FORMAT, **dataclasses.asdict(info)})


def read_info(folder: Path) -> NativeInfo:
    """Raises:
    InputError: The file is missing, malformed, or of another format.
    """
    path = folder / CONFIG_FILE
    raw = read_json(path)
    if raw.get("format") != _FORMAT:
        raise InputError(f"format {raw.get('format')!r}", f"format {_FORMAT}", file=str(path))
    try:
        parts = {"vision": VisionConfig, "language": LanguageConfig, "lora": LoraConfig}
        if (scaling := raw["config"]["language"].get("rope_scaling")) is not None:
            raw["config"]["language"]["rope_scaling"] = RopeScaling(**scaling)
        config = raw["config"] | {name: kind(**raw["config"][name]) for name, kind in parts.items()}
        config |= {name: tuple(value) for name, value in config.items() if isinstance(value, list)}
        if (steps := config.get("as_transformers")) is not None:
            config["as_transformers"] = parsed_steps(steps)
            if config["as_transformers"] is None:
                raise KeyError(f"as_transformers {steps}")
        return NativeInfo(LlavaConfig(**config), raw["dtype"], raw["scheme"], raw["source"])
    except (KeyError, TypeError) as error:
        raise InputError(f"an odd or missing entry ({error})", "what vlm-jax convert writes", file=str(path)) from None


def load_native(folder: Path, mesh: Mesh) -> tuple[NativeInfo, Params]:
    """The base on the mesh, each device's part read from the file alone; errors as in :func:`map_native`."""
    info, stored = map_native(folder)
    return info, place_stored(mesh, stored)


def map_native(folder: Path) -> tuple[NativeInfo, Params]:
    """The base as :class:`StoredArray`, which map the file and refuse values that are not finite when they are read.

    Raises:
        InputError: A file is missing or broken, or its tensors are not those of its config.
    """
    info, shapes = read_shapes(folder)
    path = folder / WEIGHTS_FILE
    places = _offsets(path)

    def stored(key_path: Any, leaf: jax.ShapeDtypeStruct) -> StoredArray:
        # A map of its own every time: its pages go back when whoever looked at it is done.
        name = path_name(key_path)
        mapped = functools.partial(np.memmap, path, leaf.dtype, "r", places[name], leaf.shape)
        return StoredArray(
            leaf.shape,
            np.dtype(leaf.dtype),
            lambda: finite(name, mapped(), path),
            lambda layer: finite(f"{name}, layer {layer}", np.array(mapped()[layer]), path),
        )

    return info, jax.tree_util.tree_map_with_path(stored, shapes)


def open_native(folder: Path, tokenizer: Tokenizer | None = None) -> tuple[LlavaConfig, Params, tuple[str, ...]]:
    """Config and base of :func:`map_native`, with the ids of special tokens held against the tokenizer.

    Args:
        folder: The checkpoint.
        tokenizer: The one in the folder, where it is open already.

    Returns:
        The config, the base, and remarks on what the file gets wrong.

    Raises:
        InputError: As in :func:`map_native`, or the tokenizer is another model's.
    """
    info, base = map_native(folder)
    ends = [info.config.eos_token_id, *info.config.end_token_ids]
    said = {CONFIG_FILE: {key: getattr(info.config, key) for key in KEYS} | {"eos_token_id": ends}}
    config, remarks = settle(info.config, said, tokenizer or tokenizer_beside(folder), folder)
    return config, base, remarks


def layout_before(folder: Path) -> str:
    """The layout that a checkpoint's weights came in: its own, or of one in ours the one that was converted."""
    return read_info(folder).source.get("layout", "") if (folder / CONFIG_FILE).exists() else "hf"


def read_shapes(folder: Path) -> tuple[NativeInfo, Params]:
    """Shapes and types of the leaves, as vlm_jax.json and the file agree on them; errors as in :func:`map_native`."""
    info, path = read_info(folder), folder / WEIGHTS_FILE
    file = TensorFile(path)
    shapes = base_shapes(info.config, file.dtypes(), info.scheme)
    _check(path, file.shapes(), leaves_of(shapes))
    return info, shapes


def _check(path: Path, found: Mapping[str, tuple[int, ...]], expected: Mapping[str, jax.ShapeDtypeStruct]) -> None:
    before = {name: str(list(shape)) for name, shape in found.items()}
    now = {name: str(list(leaf.shape)) for name, leaf in expected.items()}
    if odd := differences(before, now):
        raise InputError(odd, f"the tensors that {CONFIG_FILE} describes", file=str(path))


def _offsets(path: Path) -> dict[str, int]:
    """Where each tensor's bytes begin in a safetensors file."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
    return {name: 8 + length + entry["data_offsets"][0] for name, entry in header.items() if name != "__metadata__"}


class NativeWriter:
    """Writes leaves into their places in a file of known size; what is there already stays."""

    def __init__(self, path: Path, shapes: Params):
        """Open the file, or create it with its header and final size (unwritten parts take no space yet)."""
        self._path, self._leaves = path, leaves_of(shapes)
        header, sizes = {}, 0
        names = {kind: name for name, kind in TYPES.items()}
        for name, leaf in self._leaves.items():
            size = leaf.size * np.dtype(leaf.dtype).itemsize
            entry = {"dtype": names[np.dtype(leaf.dtype)], "shape": list(leaf.shape)}
            header[name] = entry | {"data_offsets": [sizes, sizes + size]}
            sizes += size
        text = json.dumps(header).encode()
        # The tensors begin at a multiple of 64, for readers that map them.
        text += b" " * (-(8 + len(text)) % 64)
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            # Also in a file that is there: whoever made it may have been killed before its header was written.
            os.truncate(path, 8 + len(text) + sizes)
            self._put(len(text).to_bytes(8, "little") + text, 0)
        except OSError:
            os.close(self._file)
            raise
        self._offsets = {name: 8 + len(text) + header[name]["data_offsets"][0] for name in header}

    def write(self, name: str, layer: int | None, array: np.ndarray) -> None:
        """Put a leaf, or one layer of a stacked leaf, in its place; the type is the leaf's."""
        leaf = self._leaves[name]
        kind = np.dtype(leaf.dtype)
        data = np.ascontiguousarray(array, kind)
        shape = leaf.shape if layer is None else leaf.shape[1:]
        if data.shape != tuple(shape):
            raise ValueError(f"{name}: {data.shape} instead of {tuple(shape)}")
        start = self._offsets[name] + (layer or 0) * data.nbytes
        self._put(data.reshape(-1).view(np.uint8), start)

    def _put(self, data: bytes | np.ndarray, start: int) -> None:
        view = memoryview(data)
        while view:
            try:
                written = os.pwrite(self._file, view, start)
            except OSError as error:
                # The system names no file here.
                error.filename = str(self._path)
                raise
            view, start = view[written:], start + written

    def __enter__(self) -> "NativeWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)
