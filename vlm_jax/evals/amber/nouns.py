"""The objects of AMBER's vocabulary that a description names, without NLTK and its models.

AMBER's script takes what NLTK's tagger calls a noun and WordNet's lemmatiser makes singular, and keeps the words of
``relation.json``. Here

    lemma   is WordNet 3.0's as NLTK gives it, for every form of those words. Slips included: "men", "vases",
            "chopsticks", "slippers" and "sunglasses" have other lemmas there and never count; nothing is lower-cased,
            so that "Trees" at the start of a sentence does not count and "TV" does
    noun    is a rule instead of a tagger: a word of the vocabulary is one, but for "can", "drawing" and "sailing"
            unless a determiner stands ahead ("a can", also "trash can"), for what stands behind a pronoun or a modal
            verb ("she brushes"), and for verbs behind "to". It errs on verbs behind a noun ("a man brushes his teeth")
            and on colours ("an orange cat")
"""

import itertools
from collections.abc import Set

from vlm_jax.evals.reading.english import singular, tokens

# Forms that the rules for singulars miss, or that WordNet knows under a lemma outside the vocabulary.
_LEMMAS = {
    "bookshelves": "bookshelf",
    "neckties": "necktie",
    "shelves": "shelf",
    "ties": "tie",
    "chopsticks": "chopstick",
    "earrings": "earring",
    "men": "men",
    "slippers": "slipper",
    "sunglasses": "sunglass",
    "TVs": "TVs",
    "vases": "vas",
}
# Words of the vocabulary that WordNet does not know, and whose plurals it therefore leaves as they are.
_NO_PLURAL = frozenset(
    """
    air-conditioning baconic bedsheet cann cathole closestool cooktop doghole e-book earing ebook electrombile
    kiwifruit paraglider pissoir sanitizer scoon seegull showerpuff streetlamp waterfont
    """.split()
)
# An adjective and a verb: no caption has them as nouns.
_NEVER = frozenset({"hot", "leave"})
_SELDOM = frozenset({"can", "drawing", "sailing"})
_MAKES_NOUN = frozenset(
    """
    a an the this that each every another one no some any its his her their my our your
    beer garbage metal soda spray tin trash watering
    """.split()
)
_BEFORE_VERBS = frozenset(
    "i you he she it we they who can could may might must shall should will would cannot 'll 'd n't".split()
)
_VERBS = frozenset(
    """
    bail bear board brush drain drink duck file fish lock monitor pack paddle plug ring rock saddle skate ski sound
    spray stage star support switch tap tie track train warp watch
    """.split()
)


def lemma(word: str, vocabulary: Set[str]) -> str | None:
    """The word of the vocabulary that a token is a form of, as WordNet has it; None where it is of none."""
    if word in _LEMMAS:
        return _LEMMAS[word] if _LEMMAS[word] in vocabulary else None
    if word in vocabulary:
        return word
    one = singular(word)
    return one if one in vocabulary and one not in _NO_PLURAL else None


def nouns(text: str, vocabulary: Set[str]) -> list[str]:
    """The words of the vocabulary that a description names, in order, repeats included.

    Args:
        text: A description, in sentences.
        vocabulary: The keys of AMBER's associations and what stands under them.
    """
    words = tokens(text)
    found = []
    for before, word in itertools.pairwise(["", *words]):
        one = lemma(word, vocabulary)
        if one is not None and _is_noun(word, before.lower()):
            found.append(one)
    return found


def _is_noun(word: str, before: str) -> bool:
    if word in _SELDOM:
        return before in _MAKES_NOUN
    if word in _NEVER or before in _BEFORE_VERBS:
        return False
    return not (before == "to" and word in _VERBS)
