"""What a model is asked: a question about an image, and how benchmarks ask for brief answers."""

from pathlib import Path
from typing import Literal, NamedTuple

Suffix = Literal["none", "short", "short_literal", "letter", "one_word"]
SUFFIXES: dict[Suffix, str] = {
    "none": "",
    # LLaVA-1.5 on POPE, VQA and MME.
    "short": "\nAnswer the question using a single word or phrase.",
    # LLaVA-RLHF's scripts hand the line break over as a backslash and an n.
    "short_literal": "\\nAnswer the question using a single word or phrase.",
    # LLaVA-1.5 on questions with options.
    "letter": "\nAnswer with the option's letter from the given choices directly.",
    # VCD on POPE.
    "one_word": " Please answer this question with one word.",
}


class ImageQuestion(NamedTuple):
    """One question; ``image`` is None for a question without one."""

    id: str
    text: str
    image: Path | None
