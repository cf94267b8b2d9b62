"""LLaVA checkpoints in transformers' format, both ways, without torch.

    folder/config.json                 shapes, ids, and our own fields under "vlm_jax"
    folder/model*.safetensors[.index.json]
    folder/*processor_config.json, generation_config.json, tokenizer files

Two things have no place in that format and are stored so that transformers computes the same: a linear
projector is followed by the identity, and a vocabulary without a row for the image id is padded with its mean row, to a
multiple of 64. Reading takes both off again.
"""

import dataclasses
import functools
import shutil
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.hf_config import (
    OWN_KEY,
    config_json,
    parse_config,
    preset_differences,
    processor_files,
)
from vlm_jax.checkpoints.layouts import (
    HF_LLAVA,
    HF_LLAVA_RENAMES,
    gather,
    normalised,
    problems,
    scatter,
    slots,
)
from vlm_jax.checkpoints.tensor_files import TensorFolder, write_tensors
from vlm_jax.config import PRESETS, LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.files import new_folder, read_json, write_json
from vlm_jax.models.llava import init_llava

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)


def load_llava(folder: str | Path) -> tuple[LlavaConfig, Params]:
    """The config and the weights of a checkpoint, as nested NumPy arrays in the types they are stored in.

    Reads the names of every transformers release. ``lora``, ``dtype`` and ``remat`` keep their defaults
    unless :func:`save_llava` wrote the checkpoint.

    Raises:
        InputError: A file is missing or broken, the config describes another model, tensors are missing,
            unknown or mis-shaped (all in one message), or a linear projector is not followed by the identity.
    """
    folder = Path(folder)
    raw = read_json(folder / "config.json")
    on_file = parse_config(raw, folder / "config.json")
    vocab_size = raw.get(OWN_KEY, {}).get("vocab_size", on_file.language.vocab_size)
    config = dataclasses.replace(on_file, language=dataclasses.replace(on_file.language, vocab_size=vocab_size))

    tensors = TensorFolder(folder)
    shapes = _stored_shapes(config, on_file.language.vocab_size)
    expected = slots(HF_LLAVA, shapes)
    names = normalised(tensors.shapes, HF_LLAVA_RENAMES)
    if trouble := problems(expected, {name: tensors.shapes[here] for name, here in names.items()}):
        raise InputError(trouble, "the tensors that config.json describes", file=str(tensors.path))
    stored = gather(expected, shapes, lambda name: tensors.read(names[name]))
    return config, _from_stored(config, stored, tensors.path)


def save_llava(
    folder: str | Path,
    config: LlavaConfig,
    base: Params,
    tokenizer_source: str | Path | None,
    dtype: Literal["float32", "bfloat16", "float16"] = "float32",
) -> None:
    """Write a checkpoint that :func:`load_llava` and transformers 4.x and 5.x read; complete or not at all.

    Args:
        folder: A new folder.
        config: Shapes and ids of ``base``.
        base: Weights from :func:`vlm_jax.models.llava.init_llava`, a checkpoint or training.
        tokenizer_source: Folder whose tokenizer files are copied, or None.
        dtype: Type of the stored weights; reading back is exact where ``base`` already has it.

    Raises:
        InputError: ``folder`` exists, or ``tokenizer_source`` holds no tokenizer.
    """
    folder = Path(folder)
    rows = _stored_rows(config)
    expected = slots(HF_LLAVA, _stored_shapes(config, rows))
    kind = jnp.dtype(dtype)
    with new_folder(folder) as partial:
        if tokenizer_source is not None:
            _copy_tokenizer(Path(tokenizer_source), partial)
        write_json(partial / "config.json", config_json(config, rows, dtype))
        for name, contents in processor_files(config).items():
            write_json(partial / name, contents)
        tensors = scatter(expected, _to_stored(config, base, rows))
        write_tensors(partial, ((name, tensor.astype(kind, copy=False)) for name, tensor in tensors))


def check_preset(config: LlavaConfig, preset: str, folder: str | Path) -> None:
    """Make sure that a loaded checkpoint is the model that a run asks for.

    Raises:
        InputError: A field that decides weights or arithmetic differs; every such field is named.
    """
    if found := preset_differences(config, PRESETS[preset]):
        raise InputError("; ".join(found), f"a checkpoint of {preset}", file=str(Path(folder) / "config.json"))


def _stored_rows(config: LlavaConfig) -> int:
    """Rows of the token tables on disk: transformers looks the image id up before it replaces the result."""
    if config.image_token_id < config.language.vocab_size:
        return config.language.vocab_size
    return -(-(config.image_token_id + 1) // 64) * 64


def _stored_shapes(config: LlavaConfig, rows: int) -> Params:
    """Shapes of the layout's full form, which has two projector matrices."""
    language = dataclasses.replace(config.language, vocab_size=rows)
    stored = dataclasses.replace(config, projector="mlp", language=language)
    return jax.eval_shape(functools.partial(init_llava, stored), jax.random.key(0))


def _to_stored(config: LlavaConfig, base: Params, rows: int) -> Params:
    language, projector = base["language"], base["projector"]
    if rows > config.language.vocab_size:
        language = {
            **language,
            "embedding": _padded(np.asarray(language["embedding"]), rows),
            "head": {"kernel": _padded(np.asarray(language["head"]["kernel"]).T, rows).T},
        }
    if config.projector == "linear":
        width = config.language.width
        identity = {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
        projector = {**projector, "linear2": identity}
    return {**base, "language": language, "projector": projector}


def _padded(table: np.ndarray, rows: int) -> np.ndarray:
    mean = table.astype(np.float32).mean(0, keepdims=True).astype(table.dtype)
    return np.concatenate([table, np.repeat(mean, rows - len(table), 0)])


def _from_stored(config: LlavaConfig, stored: Params, file: Path) -> Params:
    rows = config.language.vocab_size
    language, projector = stored["language"], stored["projector"]
    language = {
        **language,
        "embedding": language["embedding"][:rows],
        "head": {"kernel": language["head"]["kernel"][:, :rows]},
    }
    if config.projector == "linear":
        second, projector = projector["linear2"], {"linear1": projector["linear1"]}
        if (second["kernel"] != np.eye(config.language.width)).any() or second["bias"].any():
            raise InputError(
                "a second projector matrix that is not the identity, without an activation before it",
                "the identity in multi_modal_projector.linear_2",
                file=str(file),
            )
    return {**stored, "language": language, "projector": projector}


def _copy_tokenizer(source: Path, target: Path) -> None:
    found = [name for name in _TOKENIZER_FILES if (source / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & set(found):
        raise InputError("no tokenizer", "tokenizer.json or tokenizer.model", file=str(source))
    for name in found:
        shutil.copyfile(source / name, target / name)
