"""Which ids begin, end and fill up a text: what a folder's files say of them, held against its tokenizer and table.

The first conversions of LLaMA say ``bos 0, eos 1, pad -1``, and every LLaVA v0 and v1 that descends from them repeats
it: by those ids a prompt begins with ``<unk>`` and an answer ends at ``<s>``. The tokenizer that the weights were
trained with is right, whatever stands beside it.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_jax.config import LlavaConfig
from vlm_jax.data.conversation import IMAGE, Tokenizer
from vlm_jax.data.tokenizers import load_tokenizer
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

GENERATION_FILE = "generation_config.json"
KEYS = ("bos_token_id", "eos_token_id", "pad_token_id")
# What every LLaMA tokenizer calls them, also where its config leaves that out.
_USUAL = {"bos": "<s>", "eos": "</s>"}
_NAMED = 6  # Tokens that a complaint lists.

# Name of a file -> what it says of KEYS: an id or a list of ids each.
Said = Mapping[str, Mapping[str, Any]]


def tokenizer_beside(folder: Path) -> Tokenizer | None:
    """The tokenizer in a checkpoint's folder, or None where there is none.

    Raises:
        InputError: It is broken.
    """
    names = ("tokenizer.json", "tokenizer.model")
    return load_tokenizer(folder) if any((folder / name).exists() for name in names) else None


def said_in(raw: Mapping[str, Any], folder: Path) -> Said:
    """What a config.json and the generation_config.json beside it say of the ids.

    A ``text_config`` speaks where config.json itself is silent.

    Raises:
        InputError: generation_config.json is broken, or an id is neither a whole number nor a list of some.
    """
    text = raw.get("text_config") or {}
    found = {"config.json": {key: raw[key] if raw.get(key) is not None else text.get(key) for key in KEYS}}
    if (folder / GENERATION_FILE).exists():
        found[GENERATION_FILE] = {key: read_json(folder / GENERATION_FILE).get(key) for key in KEYS}
    said = {}
    for file, values in found.items():
        said[file] = {key: value for key, value in values.items() if value is not None}
        if odd := [f"{key} {value!r}" for key, value in said[file].items() if not _are_ids(key, value)]:
            raise InputError("; ".join(odd), "whole numbers, of ends also a list", file=str(folder / file))
    return said


def _are_ids(key: str, value: Any) -> bool:
    if isinstance(value, list):
        return key == "eos_token_id" and bool(value) and all(type(one) is int for one in value)
    # True is an int to isinstance; JSON has no other subclasses.
    return type(value) is int


def settle(
    config: LlavaConfig, said: Said, tokenizer: Tokenizer | None, folder: Path
) -> tuple[LlavaConfig, tuple[str, ...]]:
    """The config with ids that are the tokenizer's and lie in its table, and a remark where a file says otherwise.

    Without a tokenizer they are what the files say. Padding is masked wherever it is read, so any row will do for it;
    of an id without a row the log-probabilities would be NaN.

    Args:
        config: Its table has the rows that are kept.
        said: From :func:`said_in`.
        tokenizer: The one that texts are written with, or None.
        folder: To name in a complaint.

    Raises:
        InputError: Nothing says a beginning or an end that has a row, or the tokenizer makes words that have none.
    """
    rows = config.language.vocab_size
    names = {} if tokenizer is None else _names(tokenizer)
    if tokenizer is not None:
        _refuse_words_beyond(tokenizer, config, folder)
    bos = _one("bos", said, names, rows, folder)
    eos = _one("eos", said, names, rows, folder)
    controls = _controls(tokenizer)
    others = [one for values in said.values() for one in _listed(values.get("eos_token_id"))]
    if tokenizer is not None:
        # A chat's end beside a text's; what begins a text, and what stands for unknown letters, never ends an answer.
        others = [one for one in others if one in controls - {bos, names.get("unk")}]
    ends = tuple(dict.fromkeys(one for one in others if 0 <= one < rows and one not in (eos, config.image_token_id)))
    ids = {"bos_token_id": bos, "eos_token_id": eos, "pad_token_id": _padding(said, names, controls, rows, eos)}
    settled = dataclasses.replace(config, **ids, end_token_ids=ends)
    return settled, (*_remarks(said, settled, tokenizer), *_image_remark(settled, tokenizer))


def _names(tokenizer: Tokenizer) -> dict[str, int]:
    """``bos``, ``eos``, ``pad`` and ``unk`` as far as the tokenizer knows them."""
    vocabulary = tokenizer.get_vocab()
    tokens = {name: tokenizer.special_tokens_map.get(f"{name}_token") for name in ("bos", "eos", "pad", "unk")}
    tokens |= {name: usual for name, usual in _USUAL.items() if not tokens[name]}
    return {name: vocabulary[str(token)] for name, token in tokens.items() if token and str(token) in vocabulary}


def _controls(tokenizer: Tokenizer | None) -> set[int]:
    """Ids that no text is written with."""
    if tokenizer is None:
        return set()
    added = {one for one, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def _refuse_words_beyond(tokenizer: Tokenizer, config: LlavaConfig, folder: Path) -> None:
    rows, controls = config.language.vocab_size, _controls(tokenizer)
    beyond = {token: one for token, one in tokenizer.get_vocab().items() if one >= rows}
    # The image's positions are filled before the table is looked at.
    beyond = {token: one for token, one in beyond.items() if token != IMAGE and one != config.image_token_id}
    if odd := sorted((one, token) for token, one in beyond.items() if one not in controls):
        named = ", ".join(f"{token!r} {one}" for one, token in odd[:_NAMED])
        found = f"{len(odd)} words of the tokenizer without a row: {named}{', ...' if odd[_NAMED:] else ''}"
        raise InputError(found, f"ids of a table of {rows} rows", file=str(folder))


def _listed(value: int | list[int] | None) -> list[int]:
    return [] if value is None else value if isinstance(value, list) else [value]


def _one(name: str, said: Said, names: Mapping[str, int], rows: int, folder: Path) -> int:
    """The tokenizer's id, else the first one with a row that a file says."""
    key = f"{name}_token_id"
    stated = [one for values in said.values() for one in _listed(values.get(key))]
    if name not in names and not stated:
        # Nobody says anything: LLaMA's own.
        stated = [getattr(LlavaConfig, key)]
    candidates = [names[name]] if name in names else stated
    if inside := [one for one in candidates if 0 <= one < rows]:
        return inside[0]
    whose = "the tokenizer's " if name in names else ""
    found = f"{whose}{key} {', '.join(map(str, candidates))}"
    raise InputError(found, f"an id of a table of {rows} rows", file=str(folder))


def _padding(said: Said, names: Mapping[str, int], controls: set[int], rows: int, eos: int) -> int:
    stated = [one for values in said.values() for one in _listed(values.get("pad_token_id"))]
    # A word would be read out of the padding behind an answer.
    stated = [one for one in [*stated, LlavaConfig.pad_token_id] if not names or one in controls]
    candidates = [names.get("pad", -1), *stated, names.get("unk", -1), eos]
    return next(one for one in candidates if 0 <= one < rows)


def _remarks(said: Said, settled: LlavaConfig, tokenizer: Tokenizer | None) -> tuple[str, ...]:
    ends = {settled.eos_token_id, *settled.end_token_ids}
    odd: dict[str, list[str]] = {}
    for file, values in said.items():
        for key, value in values.items():
            agrees = set(_listed(value)) <= ends if key == "eos_token_id" else value == getattr(settled, key)
            if not agrees:
                odd.setdefault(f"{key} {value}", []).append(file)
    if not odd:
        return ()
    stated = ", ".join(f"{what} in {' and '.join(files)}" for what, files in odd.items())
    used = ", ".join(f"{key} {getattr(settled, key)}" for key in KEYS)
    source = f"a table of {settled.language.vocab_size} rows" if tokenizer is None else "the tokenizer"
    return (f"{stated}: by {source} it is {used}",)


def _image_remark(config: LlavaConfig, tokenizer: Tokenizer | None) -> tuple[str, ...]:
    """Where the config and the tokenizer disagree on the image's id.

    Here it marks positions, is looked up nowhere and never drawn. transformers' ``LlavaProcessor`` writes the
    tokenizer's id into a prompt, and its model puts the image where it finds the config's: of two ids it refuses every
    image.
    """
    written = None if tokenizer is None else tokenizer.get_vocab().get(IMAGE)
    if written in (None, config.image_token_id):
        return ()
    said = f"the image's id is {config.image_token_id} by the config, and {written} by the tokenizer ({IMAGE})"
    return (f"{said}: here it only marks positions, but transformers takes no image while they differ",)
