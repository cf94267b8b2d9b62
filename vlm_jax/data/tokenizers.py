"""The tokenizer of a checkpoint, as its training used it."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from vlm_jax.data.conversation import Tokenizer
from vlm_jax.errors import InputError


def load_tokenizer(folder: Path) -> Tokenizer:
    """A Hugging Face tokenizer from a folder on disk.

    A SentencePiece model alone (original LLaVA, Vicuna) is read by the LLaMA class itself: transformers 5 would choose
    by ``model_type`` in config.json, and for ``llava`` it takes a general class that puts no space in front of a text,
    other ids than LLaVA's training saw.

    Raises:
        InputError: There is no tokenizer, or it is broken.
    """
    with _unadvised():
        from transformers import AutoTokenizer, LlamaTokenizer

    sentencepiece_alone = (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists()
    try:
        if sentencepiece_alone:
            tokenizer = LlamaTokenizer.from_pretrained(folder, local_files_only=True, legacy=True)
        else:
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        # transformers 4 gives False for a folder without one.
        question = tokenizer("what is it?", add_special_tokens=False)["input_ids"]
    except Exception as error:
        # transformers lets through whatever a broken file makes its parts raise.
        reason = str(error).partition("\n")[0][:200]
        found = f"no tokenizer that can be read ({type(error).__name__}: {reason})"
        raise InputError(found, "the checkpoint's own", file=str(folder)) from None
    if not question:
        raise InputError("a tokenizer that makes nothing of a question", "a vocabulary", file=str(folder))
    return tokenizer


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
