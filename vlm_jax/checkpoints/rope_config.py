"""Rotary frequencies in a config.json: ``rope_theta`` and ``rope_scaling`` of 4.x, ``rope_parameters`` of 5.x."""

import typing
from typing import Any

import numpy as np

from vlm_jax.config import LanguageConfig, RopeScaling

# Our fields of a stretching -> transformers' keys.
_ROPE = {
    "factor": "factor",
    "low": "low_freq_factor",
    "high": "high_freq_factor",
    "original_positions": "original_max_position_embeddings",
}
_LARGEST = float(np.finfo(np.float32).max)


def is_number(value: Any, kind: type) -> bool:
    """Whether a value out of JSON is one of these, and finite in float32, which it is computed with."""
    fits = isinstance(value, int if kind is int else int | float) and not isinstance(value, bool)
    return fits and abs(value) <= _LARGEST


def rope_theta_of(text: dict[str, Any]) -> Any:
    """The base of the rotary frequencies, from 5.x's ``rope_parameters`` or from 4.x's ``rope_theta``."""
    return (text.get("rope_parameters") or text).get("rope_theta", 10000.0)


def rope_obstacles(text: dict[str, Any]) -> list[str]:
    """What a stretching of the rotary frequencies asks for that is not computed."""
    said = [text[key] for key in ("rope_parameters", "rope_scaling") if text.get(key)]
    if len(said) == 2 and _rope_kind(said[0]) != _rope_kind(said[1]):
        return [f"rope_parameters {said[0]} beside rope_scaling {said[1]}"]
    rope = said[0] if said else {}
    kind = _rope_kind(rope)
    if kind != "default" and kind not in typing.get_args(typing.get_type_hints(RopeScaling)["kind"]):
        return [f"text_config rope type {rope}"]
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        return [f"rope partial_rotary_factor {rope['partial_rotary_factor']!r}"]
    wanted = {"default": (), "linear": ("factor",), "dynamic": ("factor",), "llama3": tuple(_ROPE.values())}[kind]
    return [
        f"rope {key} {rope.get(key)!r}" for key in wanted if not (is_number(rope.get(key), float) and rope[key] > 0)
    ]


def _rope_kind(rope: dict[str, Any]) -> Any:
    return rope.get("rope_type", rope.get("type", "default"))


def rope_scaling_of(text: dict[str, Any]) -> RopeScaling | None:
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kind = _rope_kind(rope)
    if kind == "default":
        return None
    if kind != "llama3":
        return RopeScaling(kind, float(rope["factor"]))
    numbers = {ours: float(rope[key]) for ours, key in _ROPE.items()}
    return RopeScaling(kind, **numbers | {"original_positions": int(rope[_ROPE["original_positions"]])})


def rope_json(language: LanguageConfig) -> dict[str, Any]:
    """``rope_scaling`` of 4.x, whose keys 5.x has among its ``rope_parameters``."""
    scaling = language.rope_scaling
    if scaling is None:
        return {}
    keys = _ROPE if scaling.kind == "llama3" else {"factor": "factor"}
    return {"rope_type": scaling.kind, **{key: getattr(scaling, ours) for ours, key in keys.items()}}
