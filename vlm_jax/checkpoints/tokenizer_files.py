"""The files of a Hugging Face tokenizer beside a checkpoint."""

import shutil
from pathlib import Path

from vlm_jax.data.tokenizers import FILES, load_tokenizer
from vlm_jax.errors import InputError


def tokenizer_files(source: Path) -> list[Path]:
    """The files of the tokenizer in a folder.

    Raises:
        InputError: There is none.
    """
    found = [name for name in FILES if (source / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & set(found):
        raise InputError("no tokenizer", "tokenizer.json or tokenizer.model", file=str(source))
    return [source / name for name in found]


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer from one folder to another; errors as in :func:`tokenizer_files`."""
    for path in tokenizer_files(source):
        shutil.copyfile(path, target / path.name)


def copy_with_image_token(source: Path, target: Path, image_token_id: int) -> None:
    """Copy the tokenizer; where ``<image>`` is missing and its id is the next free one, as in original LLaVA, add it.

    transformers' processor puts the placeholder into the text itself and needs a token for it.

    Raises:
        InputError: There is no tokenizer.
    """
    copy_tokenizer(source, target)
    tokenizer = load_tokenizer(target)
    if "<image>" not in tokenizer.get_vocab() and len(tokenizer) == image_token_id:
        tokenizer.add_special_tokens({"additional_special_tokens": ["<image>"]})
        tokenizer.save_pretrained(target)
