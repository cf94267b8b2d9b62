"""What a folder of weights is, told from its config and the names, shapes and types of its tensors."""

import dataclasses
import math
import re
from pathlib import Path
from typing import Any

import numpy as np

from vlm_jax.checkpoints import native, peft_files
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.checkpoints.tensor_files import TensorFile, TensorFolder
from vlm_jax.checkpoints.tokenizer_files import tokenizer_files
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

# Read from the top; whatever matches none is shown as "other".
_PARTS = (
    ("adapter", re.compile(r"lora_[AB]")),
    ("text tower", re.compile(r"text_model|text_projection")),
    ("vision", re.compile(r"vision|visual|^(embeddings|pre_layrnorm|encoder|post_layernorm)\.")),
    ("projector", re.compile(r"projector")),
    ("language", re.compile(r"language|lm_head|embed_tokens|^(base_model\.)?model\.")),
)


@dataclasses.dataclass
class Part:
    parameters: int = 0
    bytes: int = 0
    types: set[str] = dataclasses.field(default_factory=set)


@dataclasses.dataclass(frozen=True)
class Description:
    """``remarks`` are lines for the reader: where it came from, what it lacks, what stands beside it."""

    layout: str
    parts: dict[str, Part]
    remarks: list[str]


def describe(folder: Path) -> Description:
    """Raises:
    InputError: There are no weights, or a file of them is broken.
    """
    if (folder / native.CONFIG_FILE).exists():
        return _native(folder)
    if peft_files.is_adapter(folder):
        return _adapter(peft_files.adapter_folder(folder))
    return _torch(folder)


def _native(folder: Path) -> Description:
    info, _ = native.read_shapes(folder)
    dense = native.leaves_of(native.base_shapes(info.config, {}, None))
    file = TensorFile(folder / native.WEIGHTS_FILE)
    stored = f"quantised to {info.scheme}" if info.scheme else "not quantised"
    origin = info.source
    remarks = [f"{stored}; from {origin['path']} ({origin['layout']} layout, sha256 {origin['sha256'][:12]}...)"]
    remarks.append(f"prompts: {info.config.template}")
    parts = _parts(file.shapes(), file.dtypes())
    # Not from the stored shapes: blocks of codes are filled up, scales are no parameters.
    whole = _parts(
        {name: leaf.shape for name, leaf in dense.items()}, {name: leaf.dtype for name, leaf in dense.items()}
    )
    for name, part in parts.items():
        part.parameters = whole[name].parameters
    return Description("our own", parts, remarks + _without_tokenizer(folder))


def _adapter(folder: Path) -> Description:
    file = peft_files.weights_file(folder)
    raw = read_json(folder / peft_files.CONFIG_FILE)
    kind = ", scaled by its root (rsLoRA)" if raw.get("use_rslora") else ""
    over = raw.get("base_model_name_or_path")
    remarks = [f"rank {raw.get('r')}, alpha {raw.get('lora_alpha')}{kind}, over {over}"]
    remarks += [f"a {kind} head beside it: {path}" for kind, path in peft_files.head_files(folder).items()]
    try:
        remarks += _adapted(peft_files.open_adapter(folder))
    except InputError as error:
        remarks.append(f"not usable here: found {error.found}; expected {error.expected}")
    return Description("peft adapter", _parts(file.shapes(), file.dtypes()), remarks)


def _adapted(adapter: peft_files.Adapter) -> list[str]:
    """What of the decoder it adapts, and what lies beside that; reads the values once, as loading does."""
    for name in adapter.names:
        adapter.read(name)
    projections = sorted({projection for _, projection in adapter.modules})
    layers = {layer for layer, _ in adapter.modules}
    ranks = sorted({one.rank for one in adapter.modules.values()})
    found = [f"{', '.join(projections)} of {len(layers)} layers, rank {' or '.join(map(str, ranks))}"]
    return found + (["with a projector of its own"] if adapter.read_projector() else [])


def _torch(folder: Path) -> Description:
    tensors = TensorFolder(folder)
    raw = read_json(folder / "config.json") if (folder / "config.json").exists() else {}
    try:
        source = open_source(folder)
        layout = {"hf": "transformers' LLaVA", "llava": "original LLaVA"}[source.layout]
        remarks = [*source.remarks, f"prompts: {source.config.template}"]
        remarks += _without_tokenizer(folder) or ["complete"]
    except InputError as error:
        layout = _guess(raw)
        remarks = [f"not usable as it is: found {error.found}; expected {error.expected}"]
    return Description(layout, _parts(tensors.shapes, tensors.dtypes), remarks)


def _without_tokenizer(folder: Path) -> list[str]:
    try:
        tokenizer_files(folder)
    except InputError as error:
        return [f"all tensors are there, but {error.found}; expected {error.expected}"]
    return []


def _guess(raw: dict[str, Any]) -> str:
    if "text_config" in raw:
        return f"transformers' {raw.get('model_type')}"
    if "mm_vision_tower" in raw:
        return "original LLaVA"
    return {"llama": "LLaMA", "clip": "CLIP", "clip_vision_model": "CLIP vision tower"}.get(
        raw.get("model_type"), f"unknown (model_type {raw.get('model_type')!r})"
    )


def _parts(shapes: dict[str, tuple[int, ...]], dtypes: dict[str, np.dtype]) -> dict[str, Part]:
    """Numbers by part of a model."""
    parts: dict[str, Part] = {}
    for name, shape in shapes.items():
        key = next((part for part, pattern in _PARTS if pattern.search(name)), "other")
        part = parts.setdefault(key, Part())
        part.bytes += math.prod(shape) * dtypes[name].itemsize
        part.types.add(str(dtypes[name]))
        part.parameters += math.prod(shape)
    return parts
