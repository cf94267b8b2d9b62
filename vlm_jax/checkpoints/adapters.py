"""Finished roles on disk: low-rank adapters in peft's format and scalar heads, small enough to publish.

    folder/adapter_config.json, folder/adapter_model.safetensors      as peft's ``save_pretrained`` writes them
    folder/reward_head.safetensors or folder/value_head.safetensors   {"weight": [1, d], "bias": [1]}, float32

peft reads the adapters on the original LLaVA class (LLaVA-RLHF's published adapters carry the same names). Its
``target_modules`` match by suffix: on a class that holds the vision tower they would add adapters to CLIP as well.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import jax

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.layouts import (
    DECODER_PROJECTIONS,
    PEFT_LORA,
    PEFT_LORA_RENAMES,
    SCALAR_HEAD,
    Layout,
    gather,
    normalised,
    problems,
    scatter,
    slots,
    translated,
)
from vlm_jax.checkpoints.peft_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    adapter_folder,
    head_files,
    rank_and_alpha,
    variants,
    weights_file,
)
from vlm_jax.checkpoints.tensor_files import TensorFile, open_file, save_tensors
from vlm_jax.checkpoints.torch_files import TorchFile
from vlm_jax.config import LlavaConfig, LoraConfig
from vlm_jax.errors import InputError
from vlm_jax.files import new_folder, read_json, write_json
from vlm_jax.models.adapters import init_lora, init_value_head

Head = Literal["reward", "value"]


def save_adapter(
    folder: str | Path,
    config: LlavaConfig,
    role: Params,
    head: Head = "reward",
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write ``{"lora": ...}`` or ``{"lora": ..., "head": ...}`` into a new folder; complete or not at all.

    Args:
        folder: A new folder.
        config: Shapes of the adapter.
        role: The trained tree.
        head: What a head in ``role`` predicts.
        notes: Contents of further JSON files by name.

    Raises:
        InputError: ``folder`` exists already.
    """
    with new_folder(Path(folder)) as partial:
        write_json(partial / CONFIG_FILE, _peft_config(config))
        save_tensors(partial / WEIGHTS_FILE, dict(scatter(slots(PEFT_LORA, _lora_shapes(config)), role["lora"])))
        if "head" in role:
            expected = slots(SCALAR_HEAD, _head_shapes(config))
            save_tensors(partial / _head_file(head), dict(scatter(expected, role["head"])))
        for name, contents in (notes or {}).items():
            write_json(partial / name, contents)


def load_adapter(folder: str | Path, config: LlavaConfig) -> Params:
    """The role in a folder: ``{"lora": ...}``, and ``"head"`` where a head lies beside it; NumPy arrays.

    Reads peft's names on the original LLaVA class and on both generations of transformers' class, safetensors and
    ``.bin``, an adapter in a folder below, and heads as LLaVA-RLHF stores them.

    Raises:
        InputError: A file is missing or broken, the adapter is not a plain LoRA of the config's rank and alpha, it
            adapts other modules (the vision tower, say), shapes differ, or the folder holds two heads.
    """
    folder = adapter_folder(Path(folder))
    _check_peft_config(folder / CONFIG_FILE, config)
    role = {"lora": _read(weights_file(folder), PEFT_LORA, _lora_shapes(config), PEFT_LORA_RENAMES)}
    heads = head_files(folder)
    if len(heads) > 1:
        raise InputError("a reward head and a value head", "one of them", file=str(folder))
    for path in heads.values():
        role["head"] = _read(open_file(path), SCALAR_HEAD, _head_shapes(config), ())
    return role


def lora_config(folder: str | Path) -> LoraConfig:
    """Rank and alpha of the adapter in a folder.

    Raises:
        InputError: There is no adapter, or its config does not say them.
    """
    path = adapter_folder(Path(folder)) / CONFIG_FILE
    return LoraConfig(*rank_and_alpha(read_json(path), path))


def _head_file(head: Head) -> str:
    return f"{head}_head.safetensors"


def _lora_shapes(config: LlavaConfig) -> Params:
    return jax.eval_shape(functools.partial(init_lora, config), jax.random.key(0))


def _head_shapes(config: LlavaConfig) -> Params:
    return jax.eval_shape(lambda: init_value_head(config))


def _read(file: TensorFile | TorchFile, layout: Layout, shapes: Params, renames: tuple[tuple[str, str], ...]) -> Params:
    expected, found = slots(layout, shapes), file.shapes()
    names = normalised(found, renames)
    if trouble := problems(expected, {name: found[here] for name, here in names.items()}):
        raise InputError(trouble, "an adapter of this config", file=str(file.path))
    return gather(translated(expected, lambda name: file.read(names[name])), shapes)


def _peft_config(config: LlavaConfig) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "r": config.lora.rank,
        "lora_alpha": config.lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": [name.rpartition(".")[2] for name, _ in DECODER_PROJECTIONS],
        "fan_in_fan_out": False,
        "inference_mode": True,
        "modules_to_save": None,
    }


def _check_peft_config(path: Path, config: LlavaConfig) -> None:
    raw = read_json(path)
    fixed = {"r": config.lora.rank, "lora_alpha": config.lora.alpha}
    odd = [f"{key} {raw.get(key)!r} instead of {value!r}" for key, value in fixed.items() if raw.get(key) != value]
    if odd := odd + variants(raw):
        raise InputError("; ".join(odd), "a plain LoRA of the config's rank and alpha", file=str(path))
