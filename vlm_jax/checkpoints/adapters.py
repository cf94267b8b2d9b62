"""Finished roles on disk: low-rank adapters in peft's format and scalar heads, small enough to publish.

    folder/adapter_config.json, folder/adapter_model.safetensors      as peft's ``save_pretrained`` writes them
    folder/reward_head.safetensors or folder/value_head.safetensors   {"weight": [1, d], "bias": [1]}, float32
    folder/reading.json                                               how training read its rows

peft reads the adapters on the original LLaVA class (LLaVA-RLHF's published adapters carry the same names). Its
``target_modules`` match by suffix: on a class that holds the vision tower they would add adapters to CLIP as well.
"""

import functools
import math
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import flax.traverse_util
import jax
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.finite import finite
from vlm_jax.checkpoints.layouts import (
    DECODER_PROJECTIONS,
    ORIGINAL_PROJECTORS,
    PEFT_LORA,
    SCALAR_HEAD,
    Slot,
    common_type,
    gather,
    problems,
    scatter,
    slots,
    translated,
)
from vlm_jax.checkpoints.peft_files import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    Adapter,
    head_files,
    open_adapter,
    open_head,
)
from vlm_jax.checkpoints.reading import FILE as READING_FILE
from vlm_jax.checkpoints.reading import written_reading
from vlm_jax.checkpoints.tensor_files import save_tensors
from vlm_jax.config import LlavaConfig, LoraConfig
from vlm_jax.errors import InputError
from vlm_jax.files import new_folder, write_json
from vlm_jax.models.adapters import init_lora, init_value_head
from vlm_jax.models.llava import init_llava
from vlm_jax.parallel.on_host import on_first_host

Head = Literal["reward", "value"]


def save_adapter(
    folder: str | Path,
    config: LlavaConfig,
    role: Params,
    head: Head = "reward",
    notes: Mapping[str, Any] | None = None,
) -> None:
    """Write ``{"lora": ...}`` or ``{"lora": ..., "head": ...}`` into a new folder; complete or not at all.

    Of several processes all call it, and the first one writes.

    Args:
        folder: A new folder.
        config: Shapes of the adapter.
        role: The trained tree.
        head: What a head in ``role`` predicts.
        notes: Contents of further JSON files by name.

    Raises:
        InputError: ``folder`` exists already.
    """
    role = on_first_host(role)
    if jax.process_index():
        return
    with new_folder(Path(folder)) as partial:
        write_json(partial / CONFIG_FILE, _peft_config(config))
        save_tensors(partial / WEIGHTS_FILE, dict(scatter(slots(PEFT_LORA, _lora_shapes(config)), role["lora"])))
        if "head" in role:
            expected = slots(SCALAR_HEAD, _head_shapes(config))
            save_tensors(partial / _head_file(head), dict(scatter(expected, role["head"])))
        write_json(partial / READING_FILE, written_reading(config))
        for name, contents in (notes or {}).items():
            write_json(partial / name, contents)


def load_adapter(folder: str | Path, config: LlavaConfig) -> Params:
    """The role in a folder: ``{"lora": ...}``, and ``"head"`` where a head lies beside it; NumPy arrays.

    Reads peft's names on the original LLaVA class and on both generations of transformers' class, safetensors and
    ``.bin``, an adapter in a folder below, and heads as LLaVA-RLHF stores them.

    A projector that was trained beside it is :func:`load_projector`'s.

    Raises:
        InputError: As in :func:`~vlm_jax.checkpoints.peft_files.open_adapter`; its rank is above the config's, shapes
            differ, or the folder holds two heads.
    """
    adapter = open_adapter(Path(folder))
    role = {"lora": _lora(adapter, config)}
    heads = head_files(adapter.folder)
    if len(heads) > 1:
        raise InputError("a reward head and a value head", "one of them", file=str(adapter.folder))
    for path in heads.values():
        role["head"] = _head(path, config)
    return role


def load_projector(folder: str | Path, config: LlavaConfig) -> Params | None:
    """The projector that was trained beside an adapter, as NumPy arrays, or None where there was none.

    Raises:
        InputError: As in :func:`load_adapter`, or it is no projector of this config.
    """
    adapter = open_adapter(Path(folder))
    if not adapter.projector:
        return None
    tensors = adapter.read_projector()
    shapes = {"projector": jax.eval_shape(functools.partial(init_llava, config), jax.random.key(0))["projector"]}
    expected = slots(ORIGINAL_PROJECTORS[config.projector], shapes)
    if trouble := problems(expected, {name: tensor.shape for name, tensor in tensors.items()}):
        file, _ = next(iter(adapter.projector.values()))
        raise InputError(trouble, f"a {config.projector} projector of this base", file=str(file.path))
    return gather(translated(expected, tensors.__getitem__), shapes)["projector"]


def lora_config(folder: str | Path) -> LoraConfig:
    """A rank and an alpha that the adapter in a folder can be computed with: its own where it has one of each.

    Otherwise the largest rank, and the scale of most of its modules; :func:`load_adapter` fits the others to them.

    Raises:
        InputError: There is no adapter, or it is of another kind.
    """
    modules = Counter(open_adapter(Path(folder)).modules.values())
    one = next(iter(modules))
    if len(modules) == 1 and one.scale == one.alpha / one.rank:
        return LoraConfig(one.rank, one.alpha)
    rank, scales = max(one.rank for one in modules), Counter()
    for one, count in modules.items():
        scales[one.scale] += count
    ((usual, _),) = scales.most_common(1)
    return LoraConfig(rank, usual * rank)


def _head_file(head: Head) -> str:
    return f"{head}_head.safetensors"


def _lora_shapes(config: LlavaConfig) -> Params:
    return jax.eval_shape(functools.partial(init_lora, config), jax.random.key(0))


def _head_shapes(config: LlavaConfig) -> Params:
    return jax.eval_shape(lambda: init_value_head(config))


def _lora(adapter: Adapter, config: LlavaConfig) -> Params:
    """All seven projections of all layers in the config's rank, whatever the adapter has of them.

    A smaller rank is filled up with zeros, and so are projections that are not adapted: with both halves zero, training
    leaves them as they are. Where a scale is not the config's, B carries the quotient. The update, scale times A B, is
    the adapter's own.
    """
    rank = config.lora.rank
    if (largest := max(one.rank for one in adapter.modules.values())) > rank:
        path = str(adapter.folder / CONFIG_FILE)
        raise InputError(f"r {largest}", f"at most {rank}, the rank that the base was opened for", file=path)
    shapes = _lora_shapes(config)
    whole = slots(PEFT_LORA, shapes)
    held = adapter.names.keys() | adapter.lacking(config.language.layers)
    expected = {name: _of_rank(name, slot, adapter) for name, slot in whole.items() if name in held}
    stored, dtypes = adapter.file.shapes(), adapter.file.dtypes()
    if trouble := problems(expected, {name: stored[here] for name, here in adapter.names.items()}):
        raise InputError(trouble, "an adapter of this config", file=str(adapter.file.path))
    factors = {name: _factor(adapter.module_of(name).scale, config) for name in expected}
    kinds: dict[str, np.dtype] = {}
    for name, slot in expected.items():
        # A half is too narrow for what is multiplied here.
        kind = dtypes[adapter.names[name]] if factors[name] == 1 else np.dtype(np.float32)
        kinds[slot.path] = common_type(kinds.get(slot.path, kind), kind)
    usual = functools.reduce(common_type, kinds.values())
    leaves = flax.traverse_util.flatten_dict(shapes, sep="/")
    tree = {path: np.zeros(leaf.shape, kinds.get(path, usual)) for path, leaf in leaves.items()}
    for name, slot in expected.items():
        tensor = slot.transform.to_ours(adapter.read(name))
        if slot.path.endswith("/b") and factors[name] != 1:
            with np.errstate(over="ignore"):
                tensor = (tensor.astype(np.float64) * factors[name]).astype(np.float32)
            finite(f"{adapter.names[name]}, scaled", tensor, adapter.file.path)
        rows, columns = tensor.shape
        tree[slot.path][slot.layer, :rows, :columns] = tensor
    return flax.traverse_util.unflatten_dict(tree, sep="/")


def _of_rank(name: str, slot: Slot, adapter: Adapter) -> Slot:
    """A is [rank, in] in a file, B [out, rank]."""
    if name not in adapter.names:
        return slot
    rank, (rows, columns) = adapter.module_of(name).rank, slot.shape
    return slot._replace(shape=(rank, columns) if slot.path.endswith("/a") else (rows, rank))


def _factor(scale: float, config: LlavaConfig) -> float:
    """What B is multiplied by, so that the config's scale gives this one; 1 but for rounding is 1."""
    factor = scale / config.lora.scale
    return 1.0 if math.isclose(factor, 1, rel_tol=1e-12) else factor


def _head(path: Path, config: LlavaConfig) -> Params:
    file, shapes = open_head(path), _head_shapes(config)
    expected, found = slots(SCALAR_HEAD, shapes), file.shapes()
    if trouble := problems(expected, found):
        raise InputError(trouble, "a head of this config", file=str(path))
    return gather(translated(expected, lambda name: finite(name, file.read(name), path)), shapes)


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
