"""What a result was made from, written beside it: the same command goes on or finds its result, another one is refused.

A record is JSON: ``settings`` (what decides the result), ``inputs`` (digests of the files that it was made from),
``base`` (the frozen weights) and ``options`` (all as asked for, paths included; for the reader, not compared).
"""

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import jax

from vlm_jax.checkpoints.native import CONFIG_FILE as NATIVE_CONFIG
from vlm_jax.checkpoints.native import WEIGHTS_FILE as NATIVE_WEIGHTS
from vlm_jax.checkpoints.peft_files import CONFIG_FILE as ADAPTER_CONFIG
from vlm_jax.checkpoints.peft_files import adapter_folder, head_files, is_adapter, weights_path
from vlm_jax.checkpoints.tensor_files import weight_files
from vlm_jax.errors import InputError, differences
from vlm_jax.files import file_sha256, plain, read_json, write_json

# Options that decide where and how a run goes on, not what comes out of it.
_WITHOUT_EFFECT = ("checkpoint", "out", "output", "mesh", "preset", "save_every")
_FOR_THE_READER = ("options", "base.source")


@dataclasses.dataclass(frozen=True)
class BaseSource:
    """Which frozen weights a run stands on: a path or a preset's name, and :func:`weights_sha256` of them."""

    source: str
    sha256: str


NO_BASE = BaseSource("nothing", "")


def weights_sha256(folder: str | Path) -> str:
    """One hash over the files of weights that are read from a checkpoint's folder, and over its config.

    In our own layout the config alone is taken from its file, which also says where the weights once lay.

    Raises:
        InputError: The folder holds no weights, or a broken config.
    """
    folder = Path(folder)
    if (folder / NATIVE_CONFIG).exists():
        config = json.dumps(read_json(folder / NATIVE_CONFIG).get("config"), sort_keys=True).encode()
        weights = files_sha256([folder / NATIVE_WEIGHTS])
    else:
        path = folder / "config.json"
        config = path.read_bytes() if path.exists() else b""
        weights = files_sha256(weight_files(folder).files)
    return hashlib.sha256(weights.encode() + config).hexdigest()


def files_sha256(files: Iterable[Path]) -> str:
    """One hash over the names and contents of files, in this order."""
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.name.encode() + file_sha256(path))
    return digest.hexdigest()


def identity(options: Any) -> dict[str, Any]:
    """A verb's options (a dataclass) as the record of a run: settings, digests of its inputs, and all as given.

    Files are hashed, so are folders of weights and drawn worlds; folders of images are too large and are not.
    """
    settings, inputs = {}, {}
    for name, value in _fields(dataclasses.asdict(options)):
        if name.split(".")[0] in _WITHOUT_EFFECT:
            continue
        if isinstance(value, Path):
            inputs[name] = digest(value)
        else:
            settings[name] = value
    return plain({"settings": settings, "inputs": inputs, "options": dataclasses.asdict(options)})


def claim(record: Path, identity: dict[str, Any], base: BaseSource = NO_BASE) -> None:
    """Write the record, or compare with the one that is there.

    Raises:
        InputError: The record that is there says that something else was made; names what differs.
    """
    made = plain({**identity, "base": dataclasses.asdict(base)})
    if not record.exists():
        if jax.process_index() == 0:
            write_json(record, made)
        return
    before, now = (
        {name: repr(value) for name, value in _fields(values) if not name.startswith(_FOR_THE_READER)}
        for values in (read_json(record), made)
    )
    if odd := differences(before, now):
        raise InputError(odd, "the same settings and inputs, or another place for the result", file=str(record))


def finished(result: Path, record: Path, identity: dict[str, Any], base: BaseSource = NO_BASE) -> bool:
    """Whether this very result is there already; says so, since the verb then has nothing to do.

    Raises:
        InputError: There is a result, but it was made from something else, or nothing says from what.
    """
    if not result.exists():
        return False
    if not record.exists():
        raise InputError("a result without a record of its making", str(record), file=str(result))
    claim(record, identity, base)
    print(f"finished already: {result}")
    return True


def digest(path: Path) -> str | None:
    """SHA-256 of a file, or of what counts of an adapter, of a folder of weights or of a drawn world; None for others.

    Raises:
        InputError: A file of it is missing or broken.
    """
    if path.is_file():
        return file_sha256(path).hex()
    if is_adapter(path):
        # In whichever folder and format: weights, rank and alpha, and heads beside them.
        inner = adapter_folder(path)
        return files_sha256([weights_path(inner), inner / ADAPTER_CONFIG, *head_files(inner).values()])
    if (path / NATIVE_CONFIG).exists() or (path / "config.json").exists():
        return weights_sha256(path)
    if loose := sorted(path.glob("*.safetensors")):
        return files_sha256(loose)
    scenes = path / "scenes.json"
    return file_sha256(scenes).hex() if scenes.is_file() else None


def _fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested objects with their keys joined by dots."""
    if not isinstance(value, dict):
        yield name, value
        return
    for key, inner in value.items():
        yield from _fields(inner, f"{name}.{key}".lstrip("."))
