"""LLaVA checkpoints in transformers' format, both ways, without torch.

    folder/config.json                 shapes, ids, and our own fields under "vlm_jax"
    folder/model*.safetensors[.index.json]
    folder/*processor_config.json, generation_config.json, tokenizer files

Two things have no place in that format and are stored so that transformers computes the same: a linear
projector is followed by the identity, and a vocabulary without a row for the image id is padded with its mean row, to a
multiple of 64. Reading takes both off again.
"""

from pathlib import Path
from typing import Literal

import jax
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.export import export
from vlm_jax.checkpoints.hf_config import preset_differences
from vlm_jax.checkpoints.sources import open_hf
from vlm_jax.config import PRESETS, LlavaConfig
from vlm_jax.errors import InputError


def load_llava(folder: str | Path) -> tuple[LlavaConfig, Params]:
    """The config and the weights of a checkpoint, as nested NumPy arrays in the types they are stored in.

    Reads the names of every transformers release. ``lora``, ``dtype`` and ``remat`` keep their defaults
    unless :func:`save_llava` wrote the checkpoint.

    Raises:
        InputError: A file is missing or broken, the config describes another model, tensors are missing,
            unknown or mis-shaped (all in one message), or a linear projector is not followed by the identity.
    """
    source = open_hf(Path(folder))
    return source.config, jax.tree.map(lambda leaf: np.ascontiguousarray(leaf).reshape(leaf.shape), source.stored())


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
    tokenizer = None if tokenizer_source is None else Path(tokenizer_source)
    export(Path(folder), "hf", config, base, tokenizer, dtype)


def check_preset(config: LlavaConfig, preset: str, folder: str | Path) -> None:
    """Make sure that a loaded checkpoint is the model that a run asks for.

    Raises:
        InputError: A field that decides weights or arithmetic differs; every such field is named.
    """
    if found := preset_differences(config, PRESETS[preset]):
        raise InputError("; ".join(found), f"a checkpoint of {preset}", file=str(Path(folder) / "config.json"))
