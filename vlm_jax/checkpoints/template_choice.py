"""How a checkpoint's conversations are written out: by hand, by its config, by its tokenizer, else as LLaVA's were."""

import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_jax.checkpoints.hf_config import OWN_KEY
from vlm_jax.config import LlavaConfig, TemplateName
from vlm_jax.data.chat_template import as_transformers, is_vicuna, template_named
from vlm_jax.data.conversation import Tokenizer
from vlm_jax.errors import InputError, did_you_mean

_NAMES = typing.get_args(TemplateName)
# Other words of original LLaVA for one of them.
_SAME = {"v1": "vicuna_v1", "vicuna_v1.1": "vicuna_v1", "llama_2": "llava_llama_2", "mistral": "mistral_instruct"}


def choose_template(
    raw: Mapping[str, Any], tokenizer: Tokenizer | None, chosen: TemplateName | None, folder: Path
) -> TemplateName:
    """The name of the template that a checkpoint is prompted by.

    Args:
        raw: Contents of its config.json.
        tokenizer: Its tokenizer, or None.
        chosen: What somebody decides by hand, or None.
        folder: To name in a complaint.

    Raises:
        InputError: The config names a template that is not offered, the tokenizer's own cannot be used, or nothing says
            how a model whose texts do not end as LLaMA's is prompted.
    """
    if (name := chosen or _named(raw, folder)) is None:
        name = _by_tokenizer(tokenizer, folder)
    if tokenizer is not None:
        write = as_transformers if (raw.get(OWN_KEY) or {}).get("as_transformers") else template_named
        try:
            write(name, tokenizer)
        except InputError as error:
            raise error.at(str(folder)) from None
    return name


def _named(raw: Mapping[str, Any], folder: Path) -> TemplateName | None:
    own = (raw.get(OWN_KEY) or {}).get("template")
    stated = own or raw.get("conv_mode")
    if stated is None:
        return None
    if (name := _SAME.get(str(stated), stated)) not in _NAMES:
        wanted = f"one of {', '.join(_NAMES)}, or --template with one of them"
        found = f"conv_mode {stated!r}{did_you_mean(str(stated), _NAMES)}"
        raise InputError(found, wanted, file=str(folder / "config.json"))
    return name


def _by_tokenizer(tokenizer: Tokenizer | None, folder: Path) -> TemplateName:
    if tokenizer is None:
        return LlavaConfig.template
    if jinja := tokenizer.chat_template:
        return "vicuna_v1" if isinstance(jinja, str) and is_vicuna(tokenizer, jinja) else "chat"
    if tokenizer.eos_token not in (None, "</s>"):
        found = f"a tokenizer without a chat template, whose texts end at {tokenizer.eos_token!r} and not at '</s>'"
        raise InputError(found, f"--template with one of {', '.join(_NAMES)}", file=str(folder))
    return "vicuna_v1"
