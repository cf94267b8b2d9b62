"""Adapters as peft writes them, from one naming to another, without knowing the model they belong to.

peft names a tensor after the module that it adapts, so one adapter has three spellings: on the original LLaVA class,
on transformers' LLaVA since 4.52, and on the one before. Ours is the first.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vlm_jax.checkpoints.layouts import DECODER_PROJECTIONS, PEFT_LORA_RENAMES, normalised
from vlm_jax.checkpoints.tensor_files import TensorFile, open_file
from vlm_jax.checkpoints.torch_files import TorchFile
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

PeftClass = Literal["llava", "hf"]
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_WEIGHT_FILES = (WEIGHTS_FILE, "adapter_model.bin")
# Names under which LLaVA-RLHF and we store scalar heads.
_HEAD_FILES = {
    "reward": ("reward_head.safetensors", "reward_head", "reward_head.pt"),
    "value": ("value_head.safetensors", "value_head.pt", "value_head"),
}
# Folders of peft whose head lies further up.
_HEAD_OWNERS = {"reward": ("lora_default", "lora_reward"), "value": ("lora_value",)}
_FIXED = {"peft_type": "LORA", "bias": "none"}
# Variants that change the arithmetic; absent or empty in a plain adapter.
_VARIANTS = (
    "use_rslora",
    "use_dora",
    "fan_in_fan_out",
    "modules_to_save",
    "rank_pattern",
    "alpha_pattern",
    "layer_replication",
    "alora_invocation_tokens",
)
# Other starts (PiSSA, OLoRA, CorDA, LoftQ) change the base that the adapter belongs to.
_PLAIN_STARTS = (None, True, False, "gaussian")
_NAME = re.compile(r"^base_model\.model\.model\.layers\.(\d+)\.([\w.]+)\.lora_([AB])\.weight$")
_PROJECTIONS = tuple(name for name, _ in DECODER_PROJECTIONS)
# Widths that a decoder's projections go from and to: one of each name throughout a model.
_WIDTHS = {
    "self_attn.q_proj": ("model", "queries"),
    "self_attn.k_proj": ("model", "keys"),
    "self_attn.v_proj": ("model", "keys"),
    "self_attn.o_proj": ("queries", "model"),
    "mlp.gate_proj": ("model", "mlp"),
    "mlp.up_proj": ("model", "mlp"),
    "mlp.down_proj": ("mlp", "model"),
}
_SUFFIXES = tuple(name.rpartition(".")[2] for name in _PROJECTIONS)


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters, itself or below, and no model."""
    return (folder / CONFIG_FILE).exists() or (not (folder / "config.json").exists() and bool(_below(folder)))


def _below(folder: Path) -> list[Path]:
    """Adapters of other names than peft's default, and in LLaVA-RLHF's ``checkpoint-N/adapter_model/lora_*``."""
    found = [*folder.glob(f"*/{CONFIG_FILE}"), *folder.glob(f"adapter_model/*/{CONFIG_FILE}")]
    return sorted(path.parent for path in found)


def adapter_folder(folder: Path) -> Path:
    """The folder itself or the only one below it that holds an adapter.

    Raises:
        InputError: There is no adapter, or several.
    """
    if (folder / CONFIG_FILE).exists():
        return folder
    found = _below(folder)
    if len(found) != 1:
        paths = ", ".join(str(path.relative_to(folder)) for path in found)
        what = f"adapters {paths}" if found else f"no {CONFIG_FILE}"
        raise InputError(what, "one adapter, here or in a folder below", file=str(folder))
    return found[0]


def weights_path(folder: Path) -> Path:
    """Raises:
    InputError: The folder holds no weights of an adapter.
    """
    for name in _WEIGHT_FILES:
        if (folder / name).exists():
            return folder / name
    raise InputError("no adapter weights", " or ".join(_WEIGHT_FILES), file=str(folder))


def weights_file(folder: Path) -> TensorFile | TorchFile:
    """The adapter's tensors, in whichever format they are."""
    return open_file(weights_path(folder))


def head_files(folder: Path) -> dict[str, Path]:
    """Scalar heads that belong to an adapter: beside it, or where LLaVA-RLHF's training leaves them.

    That is ``checkpoint-N/reward_head`` for ``checkpoint-N/adapter_model/lora_default`` and
    ``checkpoint-N/value_head.pt`` for ``.../lora_value``; ``lora_policy`` beside it has none.
    """
    found = {}
    for kind, names in _HEAD_FILES.items():
        places = [folder]
        if folder.name in _HEAD_OWNERS[kind]:
            places += [folder.parent, *([folder.parent.parent] if folder.parent.name == "adapter_model" else [])]
        files = [place / name for place in places for name in names if (place / name).is_file()]
        if files:
            found[kind] = files[0]
    return found


def variants(raw: Mapping[str, Any]) -> list[str]:
    """What makes an adapter more or other than A and B times alpha / r; empty for a plain one."""
    odd = [f"{key} {raw.get(key)!r} instead of {value!r}" for key, value in _FIXED.items() if raw.get(key) != value]
    odd += [f"{key} {raw[key]!r}" for key in _VARIANTS if raw.get(key)]
    if raw.get("init_lora_weights") not in _PLAIN_STARTS:
        odd.append(f"init_lora_weights {raw['init_lora_weights']!r}")
    return odd


def rank_and_alpha(raw: Mapping[str, Any], path: Path) -> tuple[int, float]:
    """Of the contents of ``adapter_config.json``.

    Raises:
        InputError: They are not two numbers above 0.
    """
    rank, alpha = raw.get("r"), raw.get("lora_alpha")
    # True is an int to isinstance; JSON has no other subclasses.
    if type(rank) is not int or type(alpha) not in (int, float) or rank < 1 or alpha <= 0:
        raise InputError(f"r {rank!r} and lora_alpha {alpha!r}", "two numbers above 0", file=str(path))
    return rank, float(alpha)


def read_adapter(folder: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """An adapter's config and its tensors under our names.

    Raises:
        InputError: A file is missing or broken; rank or alpha is missing; tensors belong to other modules (CLIP's
            projections carry the same suffixes, so peft adapts them too where it can see them); a layer or projection
            is missing; shapes are not of the rank, or of no one decoder.
    """
    config, file = read_json(folder / CONFIG_FILE), weights_file(folder)
    if odd := variants(config):
        raise InputError("; ".join(odd), "a plain LoRA", file=str(folder / CONFIG_FILE))
    rank, _ = rank_and_alpha(config, folder / CONFIG_FILE)
    names = normalised(file.shapes(), PEFT_LORA_RENAMES)
    matches = {name: _NAME.match(name) for name in names}
    odd = [names[name] for name, match in matches.items() if match is None or match[2] not in _PROJECTIONS]
    if odd:
        raise InputError(f"{len(odd)} other tensors: {', '.join(odd[:6])}", "a decoder's alone", file=str(file.path))
    layers = 1 + max((int(match[1]) for match in matches.values()), default=-1)
    wanted = {
        f"base_model.model.model.layers.{layer}.{name}.lora_{half}.weight"
        for layer in range(layers)
        for name in _PROJECTIONS
        for half in "AB"
    }
    if not layers or (lost := sorted(wanted - names.keys())):
        found = f"{len(lost)} missing tensors: {', '.join(lost[:6])}" if layers else "no tensors"
        raise InputError(found, "two for each of seven projections of every layer", file=str(file.path))
    shapes = file.shapes()
    if odd := _odd_shapes({name: shapes[here] for name, here in names.items()}, rank):
        wanted = f"one decoder's, of r {rank} in {CONFIG_FILE}"
        raise InputError(f"{len(odd)} odd shapes: {', '.join(odd[:6])}", wanted, file=str(file.path))
    return config, {name: np.array(file.read(here)) for name, here in names.items()}


def _odd_shapes(shapes: Mapping[str, tuple[int, ...]], rank: int) -> list[str]:
    """Tensors that are not [rank, in] (A) or [out, rank] (B), or whose width is another than most have there."""
    found: dict[str, Counter] = defaultdict(Counter)
    places = {}
    for name, shape in shapes.items():
        _, projection, half = _NAME.match(name).groups()
        places[name] = axis, width = (1, _WIDTHS[projection][0]) if half == "A" else (0, _WIDTHS[projection][1])
        found[width].update(shape[axis : axis + 1])
    odd = []
    for name, (axis, width) in places.items():
        ((usual, _),) = found[width].most_common(1) or [(0, 0)]
        wanted = (rank, usual) if axis else (usual, rank)
        if shapes[name] != wanted:
            odd.append(f"{name} {list(shapes[name])} instead of {list(wanted)}")
    return odd


def respelled(config: Mapping[str, Any], tensors: Mapping[str, np.ndarray], spelling: PeftClass):
    """Config and tensors for peft on the original class or on transformers' of today."""
    if spelling == "llava":
        return {**config, "target_modules": list(_SUFFIXES)}, dict(tensors)
    # As a pattern of whole names: bare suffixes would match the vision tower's projections as well.
    pattern = rf".*language_model\.layers\.\d+\.({'|'.join(re.escape(name) for name in _PROJECTIONS)})"
    inner = "base_model.model.model."
    named = {name.replace(inner, f"{inner}language_model.", 1): tensor for name, tensor in tensors.items()}
    return {**config, "target_modules": pattern}, named


def read_head(path: Path) -> dict[str, np.ndarray]:
    """A scalar head as float32 ``{"weight": [1, d], "bias": [1]}``.

    Raises:
        InputError: The file holds something else.
    """
    file = open_file(path)
    shapes = file.shapes()
    weight, bias = shapes.get("weight", ()), shapes.get("bias")
    if shapes.keys() != {"weight", "bias"} or len(weight) != 2 or weight[0] != 1 or bias != (1,):
        raise InputError(f"{shapes}", "weight [1, d] and bias [1]", file=str(path))
    return {name: np.asarray(file.read(name), np.float32) for name in shapes}
