"""What an ``adapter_config.json`` says: which modules have low-rank updates, of which rank and scale.

Rules as in peft (``get_pattern_key``, ``check_target_module_exists``, ``LoraLayer``): the scale is alpha / r,
or alpha / sqrt(r) with ``use_rslora`` (Kalajdzievski 2023); a pattern's first key that ends a module's name decides.
"""

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlm_jax.errors import InputError

_FIXED = {"peft_type": "LORA", "bias": "none"}
# Variants that change the arithmetic; absent or empty in what is read here.
_VARIANTS = (
    "use_dora",
    "fan_in_fan_out",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "target_parameters",
    "lora_bias",
    "use_qalora",
    "use_bdlora",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)
# Other starts (PiSSA, OLoRA, CorDA, LoftQ) change the base that the adapter belongs to.
_PLAIN_STARTS = (None, True, False, "gaussian", "eva", "orthogonal")
_LARGEST = float(np.finfo(np.float32).max)
_PROJECTOR = re.compile(r"(^|\.)(mm_projector|multi_modal_projector)$")


class LowRank(NamedTuple):
    """One module's update: ``scale`` times A B, with A and B of ``rank``; ``alpha`` is what the config says."""

    rank: int
    alpha: float
    scale: float


def obstacles(raw: Mapping[str, Any]) -> list[str]:
    """What makes an adapter more or other than low-rank updates and a projector; empty for what is read here."""
    odd = [f"{key} {raw.get(key)!r} instead of {value!r}" for key, value in _FIXED.items() if raw.get(key) != value]
    odd += [f"{key} {raw[key]!r}" for key in _VARIANTS if raw.get(key)]
    if raw.get("init_lora_weights") not in _PLAIN_STARTS:
        odd.append(f"init_lora_weights {raw['init_lora_weights']!r}")
    saved = raw.get("modules_to_save") or []
    saved = [saved] if isinstance(saved, str) else saved
    if other := [name for name in saved if not (isinstance(name, str) and _PROJECTOR.search(name))]:
        odd.append(f"modules_to_save {other!r}")
    odd += [f"{key} {raw[key]!r}" for key in ("rank_pattern", "alpha_pattern") if not _is_pattern(raw.get(key))]
    targets = raw.get("target_modules")
    if not isinstance(targets, str | list | None) or (isinstance(targets, str) and not _compiles(targets)):
        odd.append(f"target_modules {targets!r}")
    if isinstance(excluded := raw.get("exclude_modules"), str) and not _compiles(excluded):
        odd.append(f"exclude_modules {excluded!r}")
    return odd


def _is_pattern(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and all(map(_compiles, value)))


def _compiles(pattern: str) -> bool:
    try:
        re.compile(pattern)
    except re.error:
        return False
    return True


def low_rank(raw: Mapping[str, Any], module: str, path: Path) -> LowRank:
    """Of a module, by its whole name on the class that the adapter was trained on.

    Raises:
        InputError: Rank and alpha are not two numbers above 0 whose scale float32 holds.
    """
    values, keys = {}, {"r": "rank_pattern", "lora_alpha": "alpha_pattern"}
    for name, pattern in keys.items():
        patterns = raw.get(pattern) or {}
        key = next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), None)
        values[name] = raw.get(name) if key is None else patterns[key]
    rank, alpha = values["r"], values["lora_alpha"]
    # True is an int to isinstance; JSON has no other subclasses.
    if type(rank) is not int or type(alpha) not in (int, float) or rank < 1 or not 0 < alpha <= _LARGEST:
        found = f"r {rank!r} and lora_alpha {alpha!r}"
        raise InputError(found, "two numbers above 0, finite in float32", file=str(path))
    return LowRank(rank, float(alpha), alpha / (math.sqrt(rank) if raw.get("use_rslora") else rank))


def selects(raw: Mapping[str, Any], module: str) -> bool:
    """Whether a decoder's projection, by its whole name, is among the config's targets."""
    targets, excluded = raw.get("target_modules"), raw.get("exclude_modules") or []
    if _names(excluded, module):
        return False
    if targets == "all-linear":
        return True
    if isinstance(targets, str):
        return re.fullmatch(targets, module) is not None
    return _names(targets or [], module) and _in_layers(raw, module)


def _names(wanted: str | list[str], module: str) -> bool:
    if isinstance(wanted, str):
        return re.fullmatch(wanted, module) is not None
    return module in wanted or any(module.endswith(f".{one}") for one in wanted)


def _in_layers(raw: Mapping[str, Any], module: str) -> bool:
    layers = raw.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    number = int(re.search(r"\.layers\.(\d+)\.", module)[1])
    return number == layers if isinstance(layers, int) else number in layers
