"""Sentences, tokens and singular forms against NLTK and textblob, which CHAIR's script and its ports use."""

import collections
import random
import re

import pytest
from nltk.tokenize import NLTKWordTokenizer, punkt
from textblob.en import inflect

from vlm_jax.evals.reading import english
from vlm_jax.evals.reading.english import sentences, singular, tokens

WORDS = """
    dog a table mr st u.s e.g 2 3.5 x it's don't no cannot gonna wanna 'tis o'clock word-co ... -- can é ß 日本 -7 1,000
    the
""".split()
MARKS = r"""
    . . . . ... ? ! , ,, ; : ) ( " ' ] [ * % $ `` '' … “ ” ’ !? ?) - @ # & | / ~ ^ = + _ } { < >
""".split()
MARKS += [" "] * 20 + ["  ", "\n", "\n\n", "\t"]
WORDS += [". . ."]


@pytest.fixture(scope="module")
def reference():
    """NLTK's word_tokenize with the English model's decisions on lower-case text, but our list of abbreviations."""
    model = punkt.PunktParameters()
    model.abbrev_types = set(english._ABBREVIATIONS)
    # Every word has been seen with a capital: what the trained model says of all but the rarest.
    model.ortho_context = collections.defaultdict(lambda: punkt._ORTHO_BEG_UC)
    split, tokenize = punkt.PunktSentenceTokenizer(model).tokenize, NLTKWordTokenizer().tokenize
    return lambda text: (list(split(text)), [token for sentence in split(text) for token in tokenize(sentence)])


@pytest.mark.parametrize("seed", range(4))
def test_sentences_and_tokens_equal_nltks(seed, reference):
    rng = random.Random(seed)
    for _ in range(1500):
        parts = [
            rng.choice(WORDS) + rng.choice(MARKS) + rng.choice(["", "", " ", "  "]) for _ in range(rng.randint(1, 14))
        ]
        text = "".join(parts).lower()
        assert (list(sentences(text)), tokens(text)) == reference(text), repr(text)


def test_sentences_of_captions():
    text = 'a dog (or a cat.) sits there. it is 2. p.m. now; mr. smith said "no." really?!  yes...'
    assert list(sentences(text)) == [
        "a dog (or a cat.)",
        "sits there.",
        'it is 2. p.m. now; mr. smith said "no."',
        "really?!",
        "yes...",
    ]
    assert tokens("a man's dog, isn't it?") == ["a", "man", "'s", "dog", ",", "is", "n't", "it", "?"]
    assert tokens("") == list(sentences("  \n ")) == []


def test_singular_forms_equal_textblobs():
    """textblob carries pattern's rules; it adds a list of words in -s, and of "ties" it makes "tie"."""
    stems = {word for words in inflect.plural_categories.values() for word in words} | set(inflect.singular_irregular)
    stems |= set(inflect.singular_uninflected) | {"dog", "bus", "glass", "knife", "wolf", "leaf", "city", "toy", "box"}
    words = {form for stem in stems for form in (stem, stem + "s", stem + "es", re.sub("y$", "ies", stem))}
    words |= {re.sub("fe?$", "ves", stem) for stem in stems}
    added = tuple(f"{word}es" for word in inflect.plural_categories["s-singular"])
    compared = [word for word in map(str.lower, words) if not word.endswith((*added, "ies"))]
    assert len(compared) > 900
    assert {word: singular(word) for word in compared} == {word: inflect.singularize(word) for word in compared}


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("bus", "bu"),
        ("buses", "bus"),
        ("glass", "glas"),
        ("glasses", "glass"),
        ("tennis", "tenni"),
        ("ties", "ty"),
        ("people", "person"),
        ("women", "woman"),
        ("doggies", "doggies"),
        ("knives", "knife"),
        ("scissors", "scissors"),
        ("mothers-in-law", "mother-in-law"),
        ("dogs'", "dog's"),
        ("", ""),
    ],
)
def test_singular_forms(word, expected):
    assert singular(word) == expected
