"""From our trees back to the files that torch people have, one tensor at a time."""

import functools
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.finite import finite, not_finite
from vlm_jax.checkpoints.hf_config import config_json, processor_files
from vlm_jax.checkpoints.layouts import HF_LLAVA, Layout, original_llava, scatter, slots, with_vocabulary
from vlm_jax.checkpoints.original_config import original_json
from vlm_jax.checkpoints.peft_files import CONFIG_FILE as PEFT_CONFIG
from vlm_jax.checkpoints.peft_files import WEIGHTS_FILE as PEFT_WEIGHTS
from vlm_jax.checkpoints.peft_files import adapter_folder, head_files, open_adapter, read_head
from vlm_jax.checkpoints.peft_spelling import PeftClass, respelled
from vlm_jax.checkpoints.reading import FILE as READING_FILE
from vlm_jax.checkpoints.reward_view import VIEW_FILE
from vlm_jax.checkpoints.sources import LayoutName, stored_shapes
from vlm_jax.checkpoints.stored import StoredArray
from vlm_jax.checkpoints.tensor_files import save_tensors, write_tensors
from vlm_jax.checkpoints.tokenizer_files import copy_for_transformers, copy_tokenizer
from vlm_jax.checkpoints.vocabulary import padded_rows, text_rows
from vlm_jax.config import CLIP_PRESETS, LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.files import new_folder, write_json
from vlm_jax.models.quantize import dense, is_quantized


def export(
    folder: Path,
    layout: LayoutName,
    config: LlavaConfig,
    base: Params,
    tokenizer: Path | None,
    dtype: str | None = None,
    vision_tower: str | None = None,
    keeps_processor: bool = False,
) -> None:
    """Write a checkpoint in transformers' layout (``hf``) or the original one (``llava``); complete or not at all.

    Args:
        folder: A new folder.
        layout: ``hf`` is read by every transformers since 4.36. ``llava`` holds the vision tower as well; the original
            code loads the one that its config names.
        config: Shapes and ids of ``base``.
        base: Weights, in memory or stored; at most a shard is held. A quantised kernel is written as the
            weights that it stands for.
        tokenizer: Folder whose tokenizer files are copied, or None.
        dtype: Type of the stored weights; None for each one's own.
        keeps_processor: Whether the image processor and the chat template beside the tokenizer, where there are some,
            go along as they are; otherwise ``hf`` gets those that do what the config says.
        vision_tower: What the original config calls its CLIP. OpenAI's ViT-L/14 are known by their shapes.

    Raises:
        InputError: ``folder`` exists, ``tokenizer`` holds none, ``vision_tower`` is needed, or a value is no finite
            number, or none any more in ``dtype``.
    """
    write = {"hf": _hf, "llava": _original}[layout]
    stored, contents = write(config, str(_type(base, dtype)), vision_tower)
    expected = slots(stored, stored_shapes(layout, config))
    tree = _without_codes(_with_identity(config, base) if layout == "hf" else base)
    with new_folder(folder) as partial:
        if tokenizer is not None and layout == "hf":
            copy_for_transformers(tokenizer, partial, config, keeps_processor)
        elif tokenizer is not None:
            copy_tokenizer(tokenizer, partial)
        for name, content in contents.items():
            if not (keeps_processor and (partial / name).exists()):
                write_json(partial / name, content)
        write_tensors(partial, ((name, _as(name, tensor, dtype)) for name, tensor in scatter(expected, tree)))


def _hf(config: LlavaConfig, dtype: str, _: str | None) -> tuple[Layout, dict[str, Any]]:
    rows = padded_rows(config)
    layout = with_vocabulary(HF_LLAVA, config.language.vocab_size, rows)
    return layout, {"config.json": config_json(config, rows, dtype), **processor_files(config)}


def _original(config: LlavaConfig, dtype: str, vision_tower: str | None) -> tuple[Layout, dict[str, Any]]:
    if config.as_transformers is not None:
        raise InputError("a model that was trained on what transformers makes of pictures and prompts", "--layout hf")
    rows = text_rows(config)
    layout = with_vocabulary(original_llava(config.projector), config.language.vocab_size, rows)
    name = vision_tower or _openai_name(config)
    return layout, {"config.json": original_json(config, rows, name, dtype)}


def _openai_name(config: LlavaConfig) -> str:
    for name, preset in CLIP_PRESETS.items():
        if name.startswith("clip-") and preset.vision == config.vision:
            return f"openai/{name}"
    found = f"a vision tower of {config.vision.image_size} pixels and width {config.vision.width}"
    raise InputError(found, "--vision-tower with the name or folder of its CLIP")


def _with_identity(config: LlavaConfig, base: Params) -> Params:
    """A linear projector followed by the identity, since transformers' class always has two matrices."""
    if config.projector == "mlp":
        return base
    width, kind = config.language.width, base["projector"]["linear1"]["kernel"].dtype
    identity = {"kernel": np.eye(width, dtype=kind), "bias": np.zeros(width, kind)}
    return {**base, "projector": {**base["projector"], "linear2": identity}}


def _type(base: Params, dtype: str | None) -> np.dtype:
    return np.dtype(dtype or base["language"]["embedding"].dtype)


def _as(name: str, tensor: np.ndarray, dtype: str | None) -> np.ndarray:
    if dtype is None:
        return finite(name, tensor, None)
    with np.errstate(over="ignore"):
        # Contiguous at once: a shard should not hold a tensor and a copy of it.
        cast = np.ascontiguousarray(tensor, jnp.dtype(dtype))
    if not_finite(cast):
        finite(name, tensor, None)
        raise InputError(f"values of {name} beyond {dtype}", "bfloat16 or float32")
    return cast


_dense = functools.partial(jax.jit, static_argnums=1)(dense)


def _without_codes(base: Params) -> Params:
    """Quantised kernels as the weights that they stand for, computed when they are looked at."""
    kind = _type(base, None)

    def plain(leaf: Any) -> Any:
        if not is_quantized(leaf):
            return leaf

        def layer_of(layer: int) -> np.ndarray:
            return np.asarray(_dense(jax.tree.map(lambda part: part[layer], leaf), kind))

        shape = jax.eval_shape(functools.partial(dense, dtype=kind), leaf).shape
        return StoredArray(shape, kind, lambda: np.asarray(_dense(leaf, kind)), layer_of)

    return jax.tree.map(plain, base, is_leaf=is_quantized)


def export_adapter(source: Path, target: Path, spelling: PeftClass) -> None:
    """Write an adapter under peft's names for a class, with the scalar heads beside it and what says how it reads;
    complete or not at all.

    Args:
        source: Folder of the adapter, or the one above it.
        target: A new folder.
        spelling: The original LLaVA class, or transformers' of today.

    Raises:
        InputError: ``target`` exists, or the adapter is broken, adapts other modules or is not finite.
    """
    source = adapter_folder(source)
    config, tensors = respelled(open_adapter(source), spelling)
    heads = {kind: read_head(path) for kind, path in head_files(source).items()}
    with new_folder(target) as partial:
        write_json(partial / PEFT_CONFIG, config)
        save_tensors(partial / PEFT_WEIGHTS, tensors)
        for kind, head in heads.items():
            save_tensors(partial / f"{kind}_head.safetensors", head)
        for name in (VIEW_FILE, READING_FILE):
            if (source / name).exists():
                shutil.copyfile(source / name, partial / name)
