"""Which words of a description name things that are there, and which name things that are not."""

import re
from typing import Literal

from vlm_jax.scenes.language import KIND_OF_WORD
from vlm_jax.scenes.truth import mentioned_kinds
from vlm_jax.scenes.world import Scene, present_kinds

Mark = Literal["plain", "hallucinated", "right"]

_KIND_WORD = re.compile(rf"\b(?:{'|'.join(sorted(KIND_OF_WORD, key=len, reverse=True))})\b", re.IGNORECASE)
# No word of the vocabulary, so that it names nothing.
_NOTHING = "qqq"


def mark(text: str, scene: Scene) -> list[tuple[str, Mark]]:
    """The text in pieces that join to it again; words for objects (synonyms and plurals too) are pieces of their own.

    A word that only denies ("there is no ball"), doubts or is no object stays plain.
    """
    present, pieces, done = set(present_kinds(scene)), [], 0
    said = len(mentioned_kinds(text))
    for found in _KIND_WORD.finditer(text):
        # The parser reads whole clauses and folds their spelling, so a word's part in it shows when it is gone.
        without = text[: found.start()] + _NOTHING + text[found.end() :]
        if len(mentioned_kinds(without)) == said:
            continue
        pieces.append((text[done : found.start()], "plain"))
        pieces.append((found[0], "right" if KIND_OF_WORD[found[0].lower()] in present else "hallucinated"))
        done = found.end()
    pieces.append((text[done:], "plain"))
    return [piece for piece in pieces if piece[0]]


def missed(text: str, scene: Scene) -> list[str]:
    """Kinds in the picture that the text does not name."""
    named = set(mentioned_kinds(text))
    return [kind for kind in present_kinds(scene) if kind not in named]
