"""What transformers' image processor of a checkpoint does, from its JSON file.

Names and defaults: transformers' ``image_processing_clip.py`` and ``image_processing_llava.py``; an absent key, and one
that is null, is the default. transformers 5 keeps it within ``processor_config.json``, which then goes before.
"""

import dataclasses
import math
from pathlib import Path
from typing import Any

from vlm_jax.checkpoints.rope_config import is_number
from vlm_jax.config import CLIP_MEAN, CLIP_STD, ImageSteps
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

FILES = ("preprocessor_config.json", "processor_config.json")

_KINDS = {"CLIPImageProcessor": "clip", "CLIPFeatureExtractor": "clip", "LlavaImageProcessor": "llava"}
_DEFAULTS = {
    "do_pad": False,
    "do_resize": True,
    "size": {"shortest_edge": 224},
    "resample": 3,
    "do_center_crop": True,
    "crop_size": {"height": 224, "width": 224},
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "do_normalize": True,
    "image_mean": list(CLIP_MEAN),
    "image_std": list(CLIP_STD),
}
# What is done on the device, whatever the file says.
_FIXED = ("do_rescale", "rescale_factor", "do_normalize", "image_mean", "image_std")
_SWITCHES = ("do_pad", "do_resize", "do_center_crop", "do_rescale", "do_normalize")
# Pillow's filters.
_FILTERS = range(6)


def read_image_steps(folder: Path, size: int) -> ImageSteps:
    """What the image processor in a checkpoint's folder makes of an image.

    Args:
        folder: The checkpoint's.
        size: Pixels a side that the tower reads.

    Raises:
        InputError: There is none, or one that does something else than transformers' CLIP and LLaVA, normalises
            otherwise than CLIP, or makes images of another size; names every such key.
    """
    raw, file = _read(folder)
    kind = raw.get("image_processor_type") or raw.get("feature_extractor_type") or "LlavaImageProcessor"
    if not isinstance(kind, str) or kind.removesuffix("Fast").removesuffix("Pil") not in _KINDS:
        raise InputError(f"image_processor_type {kind!r}", f"one of {', '.join(_KINDS)}", file=str(file))
    said = {key: default if raw.get(key) is None else raw[key] for key, default in _DEFAULTS.items()}
    if odd := [f"{key} {said[key]!r}" for key in _FIXED if not _same(said[key], _DEFAULTS[key])]:
        raise InputError("; ".join(odd), "what CLIP's images are normalised with", file=str(file))
    steps, odd = _steps(said, pads=_KINDS[kind.removesuffix("Fast").removesuffix("Pil")] == "llava")
    if steps is None:
        raise InputError("; ".join(odd), "what transformers' CLIP and LLaVA take there", file=str(file))
    if (made := _made(steps)) != (size, size):
        found = "images of many sizes" if made is None else f"images of {made[0]} by {made[1]} pixels"
        raise InputError(found, f"{size} by {size}, which the tower reads", file=str(file))
    return steps


def _read(folder: Path) -> tuple[dict[str, Any], Path]:
    alone, all_of_it = (folder / name for name in FILES)
    if all_of_it.exists() and isinstance(nested := read_json(all_of_it).get("image_processor"), dict):
        return nested, all_of_it
    if not alone.exists():
        raise InputError("no preprocessor_config.json", "transformers' image processor", file=str(folder))
    return read_json(alone), alone


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list):
        return isinstance(found, list) and len(found) == len(wanted) and all(map(_same, found, wanted))
    if isinstance(wanted, bool):
        return found is wanted
    return is_number(found, float) and math.isclose(found, wanted, rel_tol=1e-6)


def _steps(said: dict[str, Any], pads: bool) -> tuple[ImageSteps | None, list[str]]:
    """The steps, or which keys say nothing that is known."""
    crop = _sides(said["crop_size"])
    edge = said["size"].get("shortest_edge") if isinstance(said["size"], dict) else said["size"]
    resize = edge if _is_length(edge) and _keys(said["size"]) <= {"shortest_edge"} else _sides(said["size"])
    known = {
        **{key: isinstance(said[key], bool) for key in _SWITCHES},
        "resample": is_number(said["resample"], int) and said["resample"] in _FILTERS,
        "size": resize is not None,
        "crop_size": crop is not None,
    }
    if odd := [f"{key} {said[key]!r}" for key, fine in known.items() if not fine]:
        return None, odd
    return ImageSteps(
        pad=pads and said["do_pad"],
        resize=resize if said["do_resize"] else None,
        resample=said["resample"],
        crop=(crop if isinstance(crop, tuple) else (crop, crop)) if said["do_center_crop"] else None,
    ), []


def _keys(size: Any) -> set[str]:
    return set(size) if isinstance(size, dict) else set()


def _sides(size: Any) -> int | tuple[int, int] | None:
    """One length for both, as the first files have it, or height and width."""
    if _is_length(size):
        return size
    if _keys(size) == {"height", "width"} and all(map(_is_length, size.values())):
        return size["height"], size["width"]
    return None


def _is_length(value: Any) -> bool:
    return is_number(value, int) and 0 < value <= 1 << 14


def _made(steps: ImageSteps) -> tuple[int, int] | None:
    """Height and width of every image that comes out; None where they depend on what comes in."""
    if steps.crop is not None:
        return steps.crop
    if steps.pad and isinstance(steps.resize, int):
        return steps.resize, steps.resize
    return steps.resize if isinstance(steps.resize, tuple) else None


def parsed_steps(raw: Any) -> ImageSteps | None:
    """Steps as ``dataclasses.asdict`` and JSON have them; None of what is none."""
    if not isinstance(raw, dict) or raw.keys() != {field.name for field in dataclasses.fields(ImageSteps)}:
        return None
    lengths = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    fits = (
        isinstance(raw["pad"], bool)
        and _is_size(lengths["resize"], alone=True)
        and type(raw["resample"]) is int
        and _is_size(lengths["crop"], alone=False)
    )
    return ImageSteps(**lengths) if fits else None


def _is_size(value: Any, alone: bool) -> bool:
    if value is None or (alone and type(value) is int):
        return value is None or value > 0
    return isinstance(value, tuple) and len(value) == 2 and all(type(side) is int and side > 0 for side in value)


def processor_json(steps: ImageSteps) -> dict[str, Any]:
    """What :func:`read_image_steps` reads these steps from, for transformers."""
    resize, crop = steps.resize, steps.crop
    return {
        "image_processor_type": "LlavaImageProcessor",
        **_DEFAULTS,
        "do_convert_rgb": True,
        "do_pad": steps.pad,
        "do_resize": resize is not None,
        "resample": steps.resample,
        "do_center_crop": crop is not None,
        **({"size": _named(resize)} if resize is not None else {}),
        **({"crop_size": _named(crop)} if crop is not None else {}),
    }


def _named(size: int | tuple[int, int]) -> dict[str, int]:
    return {"shortest_edge": size} if isinstance(size, int) else {"height": size[0], "width": size[1]}
