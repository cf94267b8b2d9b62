"""config.json of the original LLaVA code (LLaVA v0, v1, 1.5 and LLaVA-RLHF): a LlamaConfig with ``mm_*`` keys."""

import dataclasses
import typing
from pathlib import Path
from typing import Any

from vlm_jax.checkpoints.hf_config import (
    is_id,
    language_json,
    language_obstacles,
    odd_numbers,
    parse_language,
    parse_vision,
    special_json,
    unlike,
    vision_obstacles,
)
from vlm_jax.config import CLIP_PRESETS, Aspect, LlavaConfig, VisionConfig
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

# ``mm_projector_type``; LLaVA v0 and v1 have no such key.
_PROJECTORS = {"linear": "linear", "mlp": "mlp2x_gelu"}
# Tokens that LLaVA v0 and v1 put around an image.
_ENDS = ("<im_start>", "<im_end>")
_MODEL_TYPES = ("llava", "llava_llama", "llama")
_WANTED = "an original LLaVA up to 1.5, of CLIP and LLaMA"
_FIXED = {"mm_vision_select_feature": "patch", "hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def check_original_config(raw: dict[str, Any], file: Path) -> None:
    """What a config.json alone tells, before anybody looks for the files that go with it.

    Raises:
        InputError: The model computes something else; names every such key.
    """
    odd = [f"{key} {raw[key]!r} instead of {value!r}" for key, value in _FIXED.items() if raw.get(key, value) != value]
    odd += odd_numbers(raw, "text_config") or language_obstacles(raw)
    if raw.get("model_type") not in _MODEL_TYPES:
        odd.append(f"model_type {raw.get('model_type')!r} instead of {' or '.join(_MODEL_TYPES)}")
    if (aspect := _aspect(raw)) not in (known := typing.get_args(Aspect)):
        odd.append(f"image_aspect_ratio {aspect!r} instead of {' or '.join(known)}")
    if odd:
        raise InputError("; ".join(odd), _WANTED, file=str(file))


def vision_of(raw: dict[str, Any], folder: Path | None, file: Path) -> VisionConfig:
    """The tower's shapes: from the folder of a CLIP, else from the name under ``mm_vision_tower``.

    Raises:
        InputError: The folder holds no CLIP, or another than the name says, or the name is not one of OpenAI's
            ViT-L/14.
    """
    layer = raw.get("mm_vision_select_layer", -2)
    if not isinstance(layer, int) or layer >= 0:
        raise InputError(f"mm_vision_select_layer {layer!r}", "a number below 0", file=str(file))
    if folder is not None:
        return _given_vision(raw, folder, layer)
    name = _tower_name(raw)
    if name not in CLIP_PRESETS:
        found = f"mm_vision_tower {raw.get('mm_vision_tower')!r}"
        raise InputError(found, "a CLIP whose shapes are known, or --vision with its folder", file=str(file))
    named = dataclasses.replace(CLIP_PRESETS[name].vision, feature_layer=layer)
    if odd := vision_obstacles(named):
        raise InputError("; ".join(odd), "a layer of the tower", file=str(file))
    return named


def _tower_name(raw: dict[str, Any]) -> str:
    return str(raw.get("mm_vision_tower")).rstrip("/").rpartition("/")[2]


def _given_vision(raw: dict[str, Any], folder: Path, layer: int) -> VisionConfig:
    """Of a CLIP's folder, which has to be the named one where that one's shapes are known."""
    tower, file = read_json(folder / "config.json"), str(folder / "config.json")
    tower = tower.get("vision_config", tower)
    if not isinstance(tower, dict):
        raise InputError(f"vision_config {tower!r}", "a CLIP vision tower", file=file)
    odd = unlike(tower, "vision_config") + odd_numbers(tower, "vision_config")
    if odd := odd or vision_obstacles(parse_vision(tower, layer)):
        raise InputError("; ".join(odd), "a CLIP vision tower", file=file)
    given = parse_vision(tower, layer)
    if (preset := CLIP_PRESETS.get(_tower_name(raw))) is None:
        return given
    known = dataclasses.asdict(dataclasses.replace(preset.vision, feature_layer=layer))
    if odd := [f"{key} {value} instead of {known[key]}" for key, value in vars(given).items() if value != known[key]]:
        raise InputError("; ".join(odd), f"the tower {raw['mm_vision_tower']} that the model names", file=file)
    return given


def parse_original_config(
    raw: dict[str, Any],
    file: Path,
    vision: VisionConfig,
    added: dict[str, Any],
    two_matrices: bool,
    projector: Path | None,
) -> LlavaConfig:
    """A config from an original config.json, but for the ids of special tokens (``special_ids.settle``).

    Args:
        raw: The contents, which :func:`check_original_config` has passed; a plain LLaMA's will do where the projector
            lies in a file of its own.
        file: To name in a complaint.
        vision: From :func:`vision_of`.
        added: Ids of added tokens. Without ``<im_patch>`` the image marks positions by an id beyond the table.
        two_matrices: Whether the projector has a second matrix, for configs that say nothing about it.
        projector: The file that it lies in, to name in a complaint.

    Raises:
        InputError: The model computes something else; names every such key.
    """
    odd = []
    kind = "mlp" if two_matrices else "linear"
    if (named := raw.get("mm_projector_type", _PROJECTORS[kind])) != _PROJECTORS[kind]:
        odd.append(f"mm_projector_type {named!r} over tensors of a {_PROJECTORS[kind]} one in {projector}")
    ends = [added.get(name) for name in _ENDS] if raw.get("mm_use_im_start_end") else None
    if ends and None in ends:
        odd.append(f"mm_use_im_start_end without {' and '.join(_ENDS)} in added_tokens.json")
    if odd:
        raise InputError("; ".join(odd), _WANTED, file=str(file))
    language = parse_language(raw)
    rows = language.vocab_size
    # The image's own id is never looked up: it may be the first one beyond the table.
    limits = {"<im_patch>": rows + 1} | (dict.fromkeys(_ENDS, rows) if ends else {})
    if odd := [f"{name} {added[name]!r}" for name, limit in limits.items() if not is_id(added.get(name, 0), limit)]:
        found, wanted = f"{', '.join(odd)} in added_tokens.json", f"ids of a table of {rows} rows"
        raise InputError(found, wanted, file=str(file))
    return LlavaConfig(
        vision=vision,
        language=language,
        projector=kind,
        image_token_id=added.get("<im_patch>", language.vocab_size),
        image_ends=tuple(ends) if ends else None,
        aspect=_aspect(raw),
    )


def _aspect(raw: dict[str, Any]) -> Any:
    """LLaVA (``process_images``) leaves an image to CLIP's processor where its config says nothing; of a plain LLaMA's
    config nothing follows."""
    silent = "square" if "mm_vision_tower" in raw else LlavaConfig.aspect
    return raw.get("image_aspect_ratio") or silent


def original_json(config: LlavaConfig, rows: int, vision_tower: str, dtype: str) -> dict[str, Any]:
    """The contents of config.json for the original code, for tables of ``rows`` rows.

    ``vision_tower`` is the name or folder of its CLIP, ``dtype`` the type of the stored weights.
    """
    language, vision = config.language, config.vision
    return {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava_llama",
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        **language_json(language, rows),
        **special_json(config),
        # transformers' padded tables have a row for it that is dropped here; LLaVA pads with <unk>.
        "pad_token_id": config.pad_token_id if config.pad_token_id < rows else 0,
        "torch_dtype": dtype,
        "use_mm_proj": True,
        "mm_vision_tower": vision_tower,
        "mm_hidden_size": vision.width,
        "mm_vision_select_layer": vision.feature_layer,
        "mm_vision_select_feature": "patch",
        "mm_projector_type": _PROJECTORS[config.projector],
        "mm_use_im_start_end": config.image_ends is not None,
        "mm_use_im_patch_token": config.image_token_id < rows,
        "tune_mm_mlp_adapter": False,
        "image_aspect_ratio": config.aspect,
        # The original code is told by its command line; here it is read back.
        "conv_mode": config.template,
    }
