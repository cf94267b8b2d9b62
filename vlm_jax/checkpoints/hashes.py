"""Which weights a folder holds, as one number."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from vlm_jax.checkpoints.image_processor import FILES as IMAGE_PROCESSOR_FILES
from vlm_jax.checkpoints.native import CONFIG_FILE as NATIVE_CONFIG
from vlm_jax.checkpoints.native import WEIGHTS_FILE as NATIVE_WEIGHTS
from vlm_jax.checkpoints.peft_files import CONFIG_FILE as ADAPTER_CONFIG
from vlm_jax.checkpoints.peft_files import adapter_folder, head_files, is_adapter, projector_files, weights_path
from vlm_jax.checkpoints.tensor_files import weight_files
from vlm_jax.data.tokenizers import FILES
from vlm_jax.files import file_sha256, files_sha256, read_json


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


def tokenizer_sha256(folder: Path) -> str:
    """One hash over the files that say how texts become ids and where answers end; those that are there."""
    return _sha256_of(folder, (*FILES, "generation_config.json"))


def image_processor_sha256(folder: Path) -> str:
    """One hash over the files that say what transformers makes of an image; those that are there."""
    return _sha256_of(folder, IMAGE_PROCESSOR_FILES)


def _sha256_of(folder: Path, names: Iterable[str]) -> str:
    return files_sha256([folder / name for name in names if (folder / name).is_file()])


def digest(path: Path) -> str | None:
    """SHA-256 of a file, or of what counts of an adapter, of a folder of weights or of a drawn world; None for others.

    Raises:
        InputError: A file of it is missing or broken.
    """
    if path.is_file():
        return file_sha256(path).hex()
    if is_adapter(path):
        # In whichever folder and format: weights, rank and alpha, heads and a projector beside them.
        inner = adapter_folder(path)
        beside = [*head_files(inner).values(), *projector_files(inner)]
        return files_sha256([weights_path(inner), inner / ADAPTER_CONFIG, *beside])
    if (path / NATIVE_CONFIG).exists() or (path / "config.json").exists():
        return weights_sha256(path)
    if loose := sorted(path.glob("*.safetensors")):
        return files_sha256(loose)
    scenes = path / "scenes.json"
    return file_sha256(scenes).hex() if scenes.is_file() else None
