"""Tensors in the form that another program gave them, told by their names and types and refused: codes of quantised
weights, a model inside peft's or accelerate's wrapper.

What config.json says (``quantization_config``) does not decide: it stays behind where such a model was merged or
written out in full.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path

from vlm_jax.checkpoints.overlays import TABLES, Place
from vlm_jax.checkpoints.tensor_files import TensorFolder
from vlm_jax.errors import InputError

# What each puts beside or in place of a module's weight.
_PARTS = {
    "bitsandbytes": re.compile(r"\.((nested_)?(absmax|quant_map)|quant_state\.\w+|SCB|weight_format)$"),
    "GPTQ or AWQ": re.compile(r"\.(qweight|qzeros|g_idx)$"),
    "compressed-tensors": re.compile(r"\.(weight_packed|weight_scale|weight_zero_point)$"),
}
_WANTED = "weights in full, as they were before (--quantize then stores them in few bits here)"
_NAMED = 4  # Tensors that a complaint lists.


def refuse_quantised(places: Mapping[str, Place], weights: Collection[str]) -> None:
    """Look at the names and types of a checkpoint's tensors.

    Args:
        places: Torch name -> where it lies.
        weights: The names that are weights of the model; whole numbers are codes there.

    Raises:
        InputError: They are quantised; names by what, and the first of them.
    """
    for program, parts in _PARTS.items():
        _refuse(f"weights that {program} has quantised", [one for one in places.values() if parts.search(one.name)])
    kinds = {name: place.tensors.dtypes[place.name] for name, place in places.items() if name in weights}
    whole = [places[name] for name, kind in kinds.items() if kind.kind in "iub"]
    _refuse("weights of whole numbers, codes of a quantised model", whole)


def _refuse(what: str, found: Collection[Place]) -> None:
    if not found:
        return
    first, *_ = found = sorted(found, key=lambda place: (str(place.home), place.name))
    named = [f"{one.name} {one.tensors.dtypes[one.name]}" for one in found]
    raise InputError(f"{what}: {_listed(named)}", _WANTED, file=str(first.home))


def refuse_wrapped(model: TensorFolder) -> None:
    """Look at the names of a checkpoint in the original layout.

    Raises:
        InputError: None of the model's is there, as where a wrapper was saved with it.
    """
    if TABLES[0] in model.shapes:
        return
    names = sorted(model.shapes)
    unmerged = [name for name in names if ".lora_A." in name]
    wanted = "an adapter in a folder of its own, or merged (peft's merge_and_unload)" if unmerged else "LLaVA's names"
    raise InputError(f"no {TABLES[0]}, but {_listed(unmerged or names)}", wanted, file=str(model.path))


def refuse_no_projector(tensors: Collection[str], file: Path) -> None:
    """Look at the names in what is said to be a projector's file.

    Raises:
        InputError: No projector of LLaVA's is there. transformers' names would not do: a single matrix is two there,
            and the activation between them is told elsewhere.
    """
    if not any("mm_projector." in name for name in tensors):
        raise InputError(f"no mm_projector, but {_listed(sorted(tensors))}", "LLaVA's names", file=str(file))


def _listed(names: Collection[str]) -> str:
    first = [*names][:_NAMED]
    return f"{', '.join(first)}{', ...' if len(names) > len(first) else ''}"
