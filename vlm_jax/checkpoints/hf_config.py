"""The JSON files beside a LLaVA's weights, as transformers' LlavaForConditionalGeneration has them.

Names and defaults: transformers' ``configuration_llama.py``, ``configuration_clip.py`` and
``configuration_llava.py`` (a key that equals the default may be absent). What transformers has no key for lies
under ``"vlm_jax"``.
"""

import dataclasses
import typing
from pathlib import Path
from typing import Any

from vlm_jax.checkpoints.image_processor import parsed_steps, processor_json
from vlm_jax.checkpoints.rope_config import is_number, rope_json, rope_obstacles, rope_scaling_of, rope_theta_of
from vlm_jax.config import LanguageConfig, LlavaConfig, LoraConfig, VisionConfig
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

OWN_KEY = "vlm_jax"

# (our field, transformers' key, its default).
_LANGUAGE = (
    ("vocab_size", "vocab_size", 32000),
    ("width", "hidden_size", 4096),
    ("layers", "num_hidden_layers", 32),
    ("heads", "num_attention_heads", 32),
    ("mlp_width", "intermediate_size", 11008),
    ("norm_eps", "rms_norm_eps", 1e-6),
    ("max_positions", "max_position_embeddings", 2048),
)
_VISION = (
    ("image_size", "image_size", 224),
    ("patch_size", "patch_size", 32),
    ("width", "hidden_size", 768),
    ("layers", "num_hidden_layers", 12),
    ("heads", "num_attention_heads", 12),
    ("mlp_width", "intermediate_size", 3072),
    ("norm_eps", "layer_norm_eps", 1e-5),
)
# What our forward pass is written for; transformers' defaults agree, so an absent key passes.
_FIXED: dict[str, dict[str, Any]] = {
    "": {
        "model_type": "llava",
        "vision_feature_select_strategy": "default",
        "multimodal_projector_bias": True,
    },
    # A head that is the token table is written as a table of its own.
    "text_config": {
        "model_type": "llama",
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
    },
    "vision_config": {"model_type": "clip_vision_model", "hidden_act": "quick_gelu", "num_channels": 3},
}
_PROJECTOR_ACT = {"mlp": "gelu", "linear": "linear"}
_OWN_FIELDS = ("dtype", "remat", "template", "aspect", "image_ends", "as_transformers")


def _numbers(section: dict[str, Any], table: tuple[tuple[str, str, Any], ...]) -> dict[str, Any]:
    return {ours: section.get(key, default) for ours, key, default in table}


def odd_numbers(section: dict[str, Any], part: str) -> list[str]:
    """Keys of a ``text_config`` or ``vision_config`` whose values are no numbers of their kind, or not above 0."""
    table = {"text_config": _LANGUAGE, "vision_config": _VISION}[part]
    values = {key: (section.get(key, default), type(default)) for _, key, default in table}
    if part == "text_config" and section.get("num_key_value_heads") is not None:
        values["num_key_value_heads"] = section["num_key_value_heads"], int
    return [f"{key} {value!r}" for key, (value, kind) in values.items() if not (is_number(value, kind) and value > 0)]


def is_tied(raw: dict[str, Any]) -> bool:
    """Whether the vocabulary head is the token table; either level of a config may say so."""
    return any(section.get("tie_word_embeddings") is True for section in (raw, raw.get("text_config") or {}))


def is_id(value: Any, rows: int) -> bool:
    """Whether a value out of JSON is a token's id in a table of so many rows."""
    return is_number(value, int) and 0 <= value < rows


def parse_language(text: dict[str, Any]) -> LanguageConfig:
    """A LLaMA's shapes from the keys of transformers' LlamaConfig."""
    fields = _numbers(text, _LANGUAGE)
    return LanguageConfig(
        **fields,
        kv_heads=text.get("num_key_value_heads") or fields["heads"],
        rope_theta=float(rope_theta_of(text)),
        rope_scaling=rope_scaling_of(text),
    )


def parse_vision(vision: dict[str, Any], feature_layer: int) -> VisionConfig:
    """A CLIP tower's shapes from the keys of transformers' CLIPVisionConfig."""
    fields = _numbers(vision, _VISION)
    return VisionConfig(**fields, feature_layer=feature_layer)


def vision_obstacles(vision: VisionConfig) -> list[str]:
    """What a tower's numbers ask for that the tower does not compute."""
    found = []
    if not -vision.layers - 1 <= vision.feature_layer <= vision.layers:
        found.append(f"vision feature layer {vision.feature_layer} of {vision.layers} layers")
    if vision.image_size % vision.patch_size:
        found.append(f"image_size {vision.image_size} in patches of patch_size {vision.patch_size}")
    return found


def unlike(section: dict[str, Any], part: str) -> list[str]:
    """Fixed keys of a section (``""``, ``text_config`` or ``vision_config``) with other values than ours."""
    return [
        f"{part}.{key} {section[key]!r} instead of {value!r}".removeprefix(".")
        for key, value in _FIXED[part].items()
        if section.get(key, value) != value
    ]


def language_obstacles(text: dict[str, Any]) -> list[str]:
    """What a LLaMA's section asks for that the decoder does not compute."""
    ropes = {key: text.get(key) for key in ("rope_parameters", "rope_scaling")}
    if found := [f"{key} {value!r}" for key, value in ropes.items() if not isinstance(value, dict | None)]:
        return found
    found += rope_obstacles(text)
    if not (is_number(theta := rope_theta_of(text), float) and theta > 0):
        found.append(f"rope_theta {theta!r}")
    head_width = text.get("hidden_size", 4096) // text.get("num_attention_heads", 32)
    if (text.get("head_dim") or head_width) != head_width:
        found.append(f"text_config.head_dim {text['head_dim']} instead of {head_width}")
    return found


def _obstacles(raw: dict[str, Any]) -> list[str]:
    """Everything in a config.json that this package's forward pass does not compute."""
    sections = {part: raw.get(part) if part else raw for part in _FIXED}
    if lost := [f"{part} is missing" for part, section in sections.items() if not isinstance(section, dict)]:
        return lost
    found = [line for part, section in sections.items() for line in unlike(section, part)]
    found += [line for part, section in sections.items() if part for line in odd_numbers(section, part)]
    if found:
        return found
    found = language_obstacles(raw["text_config"])
    if not is_number(layer := raw.get("vision_feature_layer", -2), int):
        found.append(f"vision_feature_layer {layer!r} instead of one number")
    else:
        found += vision_obstacles(parse_vision(raw["vision_config"], layer))
    if not (is_number(image := _image_token(raw), int) and image >= 0):
        found.append(f"image_token_index {image!r}")
    if raw.get("projector_hidden_act", "gelu") not in _PROJECTOR_ACT.values():
        found.append(f"projector_hidden_act {raw['projector_hidden_act']!r} instead of 'gelu' or 'linear'")
    return found + _own_obstacles(raw.get(OWN_KEY, {}), raw["text_config"].get("vocab_size", 32000))


def _own_obstacles(own: Any, rows: int) -> list[str]:
    """Entries under our own key that are not what :func:`config_json` writes there."""
    if not isinstance(own, dict):
        return [f"{OWN_KEY} {own!r} instead of an object"]
    choices = {name: typing.get_args(kind) for name, kind in typing.get_type_hints(LlavaConfig).items()}
    words = {name: choices[name] for name in ("dtype", "remat", "template", "aspect")}
    rows = own.get("vocab_size", rows)
    lora, ends = own.get("lora", {}), own.get("image_ends")
    fits = {
        **{name: own.get(name, options[0]) in options for name, options in words.items()},
        "vocab_size": is_number(rows, int) and rows > 0,
        "as_transformers": own.get("as_transformers") is None or parsed_steps(own["as_transformers"]) is not None,
        "lora": isinstance(lora, dict) and lora.keys() <= vars(LoraConfig()).keys() and _are_positive(lora),
    }
    fits["image_ends"] = ends is None or (
        isinstance(ends, list) and len(ends) == 2 and fits["vocab_size"] and all(is_id(end, rows) for end in ends)
    )
    return [f"{OWN_KEY}.{name} {own.get(name)!r}" for name, fine in fits.items() if not fine]


def _are_positive(lora: dict[str, Any]) -> bool:
    kinds = {"rank": int, "alpha": float}
    return all(is_number(value, kinds[name]) and value > 0 for name, value in lora.items())


def _image_token(raw: dict[str, Any]) -> Any:
    return raw.get("image_token_index", raw.get("image_token_id", 32000))


def parse_config(raw: dict[str, Any], file: Path) -> LlavaConfig:
    """A config from the contents of config.json; ``language.vocab_size`` counts the file's rows.

    The ids of special tokens are left to :func:`vlm_jax.checkpoints.special_ids.settle`.

    Raises:
        InputError: The model computes something else, or a section is missing; names every such key.
    """
    if odd := _obstacles(raw):
        raise InputError("; ".join(odd), "transformers' LLaVA up to 1.5, of CLIP and LLaMA", file=str(file))
    text, own = raw["text_config"], raw.get(OWN_KEY, {})
    projector = next(k for k, act in _PROJECTOR_ACT.items() if act == raw.get("projector_hidden_act", "gelu"))
    return LlavaConfig(
        vision=parse_vision(raw["vision_config"], raw.get("vision_feature_layer", -2)),
        language=parse_language(text),
        lora=LoraConfig(**own.get("lora", {})),
        projector=projector,
        image_token_id=_image_token(raw),
        **{name: _hashable(own[name]) for name in _OWN_FIELDS if name in own},
    )


def check_config(folder: Path) -> None:
    """Look at a LLaVA's config.json before transformers does on its way to the tokenizer: it would not say which of the
    two is broken.

    Raises:
        InputError: As in :func:`parse_config`.
    """
    path = folder / "config.json"
    if path.exists() and "text_config" in (raw := read_json(path)):
        parse_config(raw, path)


def _hashable(value: Any) -> Any:
    """JSON has lists and objects alone; a config that is a static argument holds tuples, and an image's steps."""
    if isinstance(value, dict):
        return parsed_steps(value)
    return tuple(value) if isinstance(value, list) else value


def language_json(language: LanguageConfig, rows: int) -> dict[str, Any]:
    """The keys of transformers' LlamaConfig, those of 4.x and 5.x."""
    return {
        **{key: getattr(language, ours) for ours, key, _ in _LANGUAGE},
        "vocab_size": rows,
        "num_key_value_heads": language.kv_heads,
        "head_dim": language.head_width,
        "rope_theta": language.rope_theta,
        "rope_parameters": {"rope_type": "default", "rope_theta": language.rope_theta, **rope_json(language)},
        **({"rope_scaling": rope_json(language)} if language.rope_scaling else {}),
    }


def special_json(config: LlavaConfig) -> dict[str, Any]:
    """Ids of special tokens; transformers stops at each of a list of ends."""
    ends = [config.eos_token_id, *config.end_token_ids]
    return {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ends if config.end_token_ids else config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }


def config_json(config: LlavaConfig, rows: int, dtype: str) -> dict[str, Any]:
    """The contents of config.json for tables of ``rows`` rows, in the keys of transformers 4.x and 5.x."""
    language, vision = config.language, config.vision
    ids = special_json(config)
    kind = {"torch_dtype": dtype, "dtype": dtype}
    return {
        "architectures": ["LlavaForConditionalGeneration"],
        **_FIXED[""],
        "image_token_index": config.image_token_id,
        "image_seq_length": config.vision.patches,
        "vision_feature_layer": vision.feature_layer,
        "projector_hidden_act": _PROJECTOR_ACT[config.projector],
        "tie_word_embeddings": False,
        "ignore_index": -100,
        **ids,
        **kind,
        "text_config": {
            "architectures": ["LlamaForCausalLM"],
            **_FIXED["text_config"],
            "tie_word_embeddings": False,
            **language_json(language, rows),
            **ids,
            **kind,
        },
        "vision_config": {
            **_FIXED["vision_config"],
            **{key: getattr(vision, ours) for ours, key, _ in _VISION},
            "projection_dim": vision.width,
            **kind,
        },
        OWN_KEY: {
            "vocab_size": language.vocab_size,
            "lora": dataclasses.asdict(config.lora),
            **{name: getattr(config, name) for name in _OWN_FIELDS if name != "as_transformers"},
            **({"as_transformers": dataclasses.asdict(config.as_transformers)} if config.as_transformers else {}),
        },
    }


def processor_files(config: LlavaConfig) -> dict[str, dict[str, Any]]:
    """File name -> contents for LlavaProcessor: pad to a square with the mean colour, or not, then resize and crop."""
    return {
        "preprocessor_config.json": {"processor_class": "LlavaProcessor", **processor_json(config.image_steps)},
        "processor_config.json": {
            "processor_class": "LlavaProcessor",
            "image_token": "<image>",
            "patch_size": config.vision.patch_size,
            "vision_feature_select_strategy": "default",
            # The class token, which the "default" strategy then takes off again.
            "num_additional_image_tokens": 1,
        },
        "generation_config.json": special_json(config),
    }


def preset_differences(config: LlavaConfig, preset: LlavaConfig) -> list[str]:
    """Fields that decide weights or arithmetic and differ; unused rows of a vocabulary are no difference."""

    def fields(part: str, ours: Any, theirs: Any) -> list[str]:
        return [
            f"{part}.{field.name} {getattr(ours, field.name)} instead of {getattr(theirs, field.name)}"
            for field in dataclasses.fields(ours)
            if getattr(ours, field.name) != getattr(theirs, field.name)
            and field.name not in ("vocab_size", "max_positions")
        ]

    found = fields("vision", config.vision, preset.vision) + fields("language", config.language, preset.language)
    if config.language.vocab_size < preset.language.vocab_size:
        found.append(f"vocab_size {config.language.vocab_size} instead of {preset.language.vocab_size}")
    if config.projector != preset.projector:
        found.append(f"projector {config.projector} instead of {preset.projector}")
    return found
