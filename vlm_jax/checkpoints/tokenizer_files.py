"""The files of a Hugging Face tokenizer beside a checkpoint."""

import shutil
from pathlib import Path

from vlm_jax.errors import InputError

_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.json",
    "chat_template.jinja",
)


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the tokenizer from one folder to another.

    Raises:
        InputError: There is none.
    """
    found = [name for name in _FILES if (source / name).is_file()]
    if not {"tokenizer.json", "tokenizer.model"} & set(found):
        raise InputError("no tokenizer", "tokenizer.json or tokenizer.model", file=str(source))
    for name in found:
        shutil.copyfile(source / name, target / name)
