import numpy as np
import pytest

from vlm_jax.report.marks import mark, missed
from vlm_jax.scenes.language import KIND_OF_WORD, description
from vlm_jax.scenes.truth import chair_counts, mentioned_kinds
from vlm_jax.scenes.world import scene


def marked(text, here):
    return [piece for piece in mark(text, here) if piece[1] != "plain"]


def test_synonyms_and_plurals_are_marked_and_the_text_stays_whole(room):
    text = "There is a red SPHERE, two  crates and three\nkites; the ball is left of a ship."
    assert marked(text, room) == [
        ("SPHERE", "right"),
        ("crates", "right"),
        ("kites", "hallucinated"),
        ("ball", "right"),
        ("ship", "hallucinated"),
    ]
    assert "".join(words for words, _ in mark(text, room)) == text


@pytest.mark.parametrize(
    "text", ["There is no kite.", "I can't see a boat.", "I am not sure whether there is a star.", ""]
)
def test_denied_and_doubted_words_stay_plain(text, room):
    assert marked(text, room) == []


def test_the_same_word_is_marked_only_where_it_is_claimed(room):
    text = "There is no kite. There is a kite."
    assert mark(text, room) == [("There is no kite. There is a ", "plain"), ("kite", "hallucinated"), (".", "plain")]


def test_words_that_only_contain_a_kind_are_plain(room):
    assert marked("A starboard housing with a balloon, a fishy cupboard.", room) == []


def test_marks_agree_with_chair_on_drawn_scenes():
    rng = np.random.default_rng(0)
    for here in (scene("test", i) for i in range(60)):
        text = description(here, rng, synthetic=True)
        pieces = marked(text, here)
        assert [KIND_OF_WORD[words] for words, _ in pieces] == mentioned_kinds(text)
        _, absent, present = chair_counts(text, here)
        assert {KIND_OF_WORD[words] for words, kind in pieces if kind == "hallucinated"} == absent
        assert {KIND_OF_WORD[words] for words, kind in pieces if kind == "right"} == present


def test_missed_kinds(room):
    assert missed("There is a crate and no ball.", room) == ["ball"]
    assert missed("A sphere and a box.", room) == []
