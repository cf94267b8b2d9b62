"""AMBER's descriptions (Wang et al. 2023): which of the objects that a description names are not in the image?

    chair   hallucinated nouns / nouns of the vocabulary, lower is better
    cover   annotated objects that descriptions name / annotated objects
    hal     descriptions with a hallucinated noun / descriptions
    cog     annotated lures (what people would expect there) that descriptions name / annotated lures

All in percent, rounded to one decimal, denominators starting at 0.001, as in AMBER's ``inference.py``. That script also
has spaCy's word vectors (``en_core_web_lg``) compare nouns: one that is like an object of the image is forgiven, one
that is like a lure counts as that lure. Without a ``similarity`` words have to be equal, and figures are not the
published ones; what a noun is differs too (``amber_nouns.py``).
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from vlm_jax.errors import InputError
from vlm_jax.evals.statistics.bootstrap import Statistic
from vlm_jax.files import read_json, read_text

Similarity = Callable[[str, str], float]

_ALIKE = 0.8
_START = 0.001
# What is counted of a description: hallucinated nouns, nouns, objects named, objects, lures named, lures, itself if it
# does not hallucinate, itself.
COLUMNS = 8


@dataclasses.dataclass(frozen=True)
class Lexicon:
    """``associations``: each word of the annotations -> words that may stand for it; ``safe``: words that are never
    held against a description."""

    associations: Mapping[str, Sequence[str]]
    safe: Set[str]

    @functools.cached_property
    def vocabulary(self) -> frozenset[str]:
        """The words that count as objects."""
        return frozenset(self.associations).union(*self.associations.values())


class Described(NamedTuple):
    """The ``nouns`` of a description that are in the vocabulary, those ``hallucinated``, and the annotated ``objects``
    and ``lures`` that it names."""

    nouns: list[str]
    hallucinated: list[str]
    objects: list[str]
    lures: list[str]


def read_lexicon(associations: Path, safe_words: Path) -> Lexicon:
    """AMBER's ``relation.json`` and ``safe_words.txt`` (a word a line).

    Raises:
        InputError: The first is no object of lists of words.
    """
    raw = read_json(associations)
    for word, others in raw.items():
        if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
            raise InputError(f"{others!r} under {word!r}", "a list of words", file=str(associations))
    return Lexicon(raw, frozenset(read_text(safe_words).split()))


def describe(
    nouns: Iterable[str],
    truth: Sequence[str],
    lures: Sequence[str],
    lexicon: Lexicon,
    similarity: Similarity | None = None,
) -> Described:
    """What a description says of an image.

    Args:
        nouns: Its nouns, singular, repeats included; those outside the vocabulary are left out.
        truth: Objects in the image.
        lures: Objects that are not, and that people would expect.
        lexicon: All words of ``truth`` and ``lures`` have to be among its associations.
        similarity: Of two words; above 0.8 they are alike.

    Raises:
        InputError: A word without associations.
    """
    objects, expected = _named_by(truth, lexicon), _named_by(lures, lexicon)
    kept = [noun for noun in nouns if noun in lexicon.vocabulary]
    hallucinated, named, lured = [], set(), set()
    for noun in kept:
        if noun in lexicon.safe:
            continue
        if noun in objects:
            named.add(objects[noun])
            continue
        # A lure goes on: it may still be like an object, and be forgiven.
        lured |= {expected.get(noun), _alike(noun, expected, similarity)}
        forgiven = _alike(noun, objects, similarity)
        if forgiven is None:
            hallucinated.append(noun)
        else:
            named.add(forgiven)
    lured.discard(None)
    return Described(kept, hallucinated, [truth[at] for at in sorted(named)], [lures[at] for at in sorted(lured)])


def _named_by(words: Sequence[str], lexicon: Lexicon) -> dict[str, int]:
    """Whatever stands for one of the words -> its place; of several the first, associations before the words."""
    if lost := [word for word in words if word not in lexicon.associations]:
        raise InputError(f"the annotated word {lost[0]!r}", "a word among the associations")
    places: dict[str, int] = {}
    for place, word in enumerate(words):
        for other in lexicon.associations[word]:
            places.setdefault(other, place)
    for place, word in enumerate(words):
        places.setdefault(word, place)
    return places


def _alike(noun: str, words: Mapping[str, int], similarity: Similarity | None) -> int | None:
    """The place of the first word that the noun is like."""
    if similarity is None:
        return None
    return next((place for word, place in words.items() if similarity(noun, word) > _ALIKE), None)


def counts(
    described: Sequence[Described], truths: Sequence[Sequence[str]], lures: Sequence[Sequence[str]]
) -> Float[np.ndarray, "n 8"]:
    """What each description adds to the sums behind the figures."""
    rows = np.zeros((len(described), COLUMNS))
    for row, found, truth, expected in zip(rows, described, truths, lures, strict=True):
        named = len(found.objects), len(truth), len(found.lures), len(expected)
        row[:] = len(found.hallucinated), len(found.nouns), *named, not found.hallucinated, 1
    return rows


def statistics(first: int = 0) -> dict[str, Statistic]:
    """CHAIR, Cover, Hal and Cog before rounding, of many rows of sums, in which those of :func:`counts` begin at
    column ``first``."""

    def percent(top: int, bottom: int) -> Statistic:
        return lambda sums: sums[:, first + top] / (sums[:, first + bottom] + _START) * 100

    clean = percent(6, 7)
    return {
        "chair": percent(0, 1),
        "cover": percent(2, 3),
        "hal": lambda sums: 100 - clean(sums),
        "cog": percent(4, 5),
    }


def reported(sums: Float[np.ndarray, " 8"]) -> dict[str, float]:
    """CHAIR, Cover, Hal and Cog as the script prints them."""
    return {name: round(float(statistic(sums[None])[0]), 1) for name, statistic in statistics().items()}
