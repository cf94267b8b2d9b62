"""The tokenizer of a checkpoint, as its training used it."""

import contextlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

from vlm_jax.data.conversation import Tokenizer
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, refuse_pointer

FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)
# As every SentencePiece model of LLaMA's kind calls them.
_LLAMA = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def load_tokenizer(folder: Path) -> Tokenizer:
    """A Hugging Face tokenizer from a folder on disk.

    A SentencePiece model alone (original LLaVA, Vicuna) is read by the LLaMA class itself: transformers 5 would choose
    by ``model_type`` in config.json, and for ``llava`` it takes a general class that puts no space in front of a text,
    other ids than LLaVA's training saw.

    Raises:
        InputError: There is no tokenizer, it is broken, or a file of it may not be read.
    """
    with _unadvised():
        from transformers import AutoTokenizer, LlamaTokenizer

    for path in (folder / name for name in FILES):
        if path.exists():
            refuse_pointer(path)
    sentencepiece_alone = (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists()
    try:
        with _quiet_about_configs():
            if sentencepiece_alone:
                tokenizer = LlamaTokenizer.from_pretrained(
                    folder, local_files_only=True, legacy=True, **_emptied(folder)
                )
            else:
                tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # transformers 4 gives False for a folder without one.
        question = tokenizer("what is it?", add_special_tokens=False)["input_ids"]
    except Exception as error:
        # transformers lets through whatever a broken file makes its parts raise.
        reason = str(error)[:200]
        found = f"no tokenizer that can be read ({type(error).__name__}: {reason})"
        raise InputError(found, "the checkpoint's own", file=str(folder)) from None
    if (beside := folder / "chat_template.json").exists():
        # A processor's, which knows of images, goes before the tokenizer's.
        tokenizer.chat_template = read_json(beside).get("chat_template")
    if not question:
        raise InputError("a tokenizer that makes nothing of a question", "a vocabulary", file=str(folder))
    return tokenizer


@contextlib.contextmanager
def _quiet_about_configs() -> Iterator[None]:
    """What config.json says is read and judged here, not by transformers, which looks for a class in it and warns of a
    ``model_type`` that it does not know, original LLaVA's ``llava_llama`` for one."""
    logger = logging.getLogger("transformers.configuration_utils")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextlib.contextmanager
def _unadvised() -> Iterator[None]:
    """On import transformers advises to install PyTorch, for models that nothing here uses; its errors still come."""
    switch = "TRANSFORMERS_NO_ADVISORY_WARNINGS"
    if switch in os.environ:
        yield
        return
    os.environ[switch] = "1"
    try:
        yield
    finally:
        del os.environ[switch]


def _emptied(folder: Path) -> dict[str, str]:
    """Special tokens that a tokenizer's config says are "", as the first conversions of LLaMA have it."""
    path = folder / "tokenizer_config.json"
    said = read_json(path) if path.exists() else {}
    return {name: token for name, token in _LLAMA.items() if said.get(name) == ""}
