"""An adapter in the words of one class, so that peft finds its modules there."""

import re
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from vlm_jax.checkpoints.peft_config import LowRank
from vlm_jax.checkpoints.peft_files import INNER, PROJECTIONS, Adapter

PeftClass = Literal["llava", "hf"]


def respelled(adapter: Adapter, spelling: PeftClass) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Config and tensors for peft on the original class or on transformers' of today, with the same ranks and scales.

    Raises:
        InputError: A value is no finite number.
    """
    level = {"llava": "", "hf": "language_model."}[spelling]
    tensors = {
        name.replace(INNER + "model.", f"{INNER}model.{level}", 1): np.array(adapter.read(name))
        for name in adapter.names
    }
    projector = adapter.read_projector()
    module = {"llava": "mm_projector", "hf": "multi_modal_projector"}[spelling]
    for name, tensor in (projector if spelling == "llava" else _two_matrices(projector)).items():
        tensors[INNER + name] = np.array(tensor)
    # What was said in the words of one class is said by whole modules.
    said = dict.fromkeys(("layers_to_transform", "layers_pattern", "exclude_modules"))
    said |= {"target_modules": _targets(adapter.modules, level), "modules_to_save": [module] if projector else None}
    return {**adapter.raw, **said, **_patterns(adapter)}, tensors


def _two_matrices(projector: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A projector under the names of transformers' class, which has the identity behind a single matrix."""
    new = "model.multi_modal_projector.linear_"
    if "model.mm_projector.weight" not in projector:
        places = {"model.mm_projector.0.": f"{new}1.", "model.mm_projector.2.": f"{new}2."}
        return {places[name[:21]] + name[21:]: tensor for name, tensor in projector.items()}
    weight, bias = (projector[f"model.mm_projector.{part}"] for part in ("weight", "bias"))
    identity = {f"{new}2.weight": np.eye(len(bias), dtype=weight.dtype), f"{new}2.bias": np.zeros_like(bias)}
    return {f"{new}1.weight": weight, f"{new}1.bias": bias, **identity}


def _targets(modules: Mapping[tuple[int, str], LowRank], level: str) -> list[str] | str:
    """``target_modules`` that select these projections and nothing of a vision tower."""
    names = [name for name in PROJECTIONS if any(name == one for _, one in modules)]
    layers = {layer for layer, _ in modules}
    everywhere = len(modules) == len(names) * len(layers) and layers == set(range(len(layers)))
    if everywhere and not level:
        return [name.rpartition(".")[2] for name in names]
    # As a pattern of whole names: bare suffixes would match the vision tower's projections as well.
    alternatives = "|".join(re.escape(name) for name in names)
    inner = rf"\d+\.({alternatives})"
    if not everywhere:
        inner = f"({'|'.join(re.escape(f'{layer}.{name}') for layer, name in sorted(modules))})"
    return rf".*{re.escape(level)}layers\.{inner}"


def _patterns(adapter: Adapter) -> dict[str, dict[str, int | float]]:
    """``rank_pattern`` and ``alpha_pattern`` by whole modules, where a module has others than the config's own."""
    found: dict[str, dict[str, int | float]] = {"rank_pattern": {}, "alpha_pattern": {}}
    for (layer, projection), one in adapter.modules.items():
        key = re.escape(f"layers.{layer}.{projection}")
        if one.rank != adapter.raw.get("r"):
            found["rank_pattern"][key] = one.rank
        if one.alpha != adapter.raw.get("lora_alpha"):
            found["alpha_pattern"][key] = one.alpha
    return found
