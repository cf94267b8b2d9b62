"""The tokenizer of a checkpoint, as its training used it."""

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
    from transformers import AutoTokenizer, LlamaTokenizer

    sentencepiece_alone = (folder / "tokenizer.model").exists() and not (folder / "tokenizer.json").exists()
    try:
        if sentencepiece_alone:
            return LlamaTokenizer.from_pretrained(folder, local_files_only=True, legacy=True)
        return AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError):
        raise InputError("no tokenizer that can be read", "the checkpoint's own", file=str(folder)) from None
