import dataclasses
import itertools

import numpy as np
import pytest

from vlm_jax.scenes.claims import Exists, Ground, Larger, Letter, More, Relation
from vlm_jax.scenes.language import captions, describe, description
from vlm_jax.scenes.preferences import annotate
from vlm_jax.scenes.questions import QUESTION_TYPES, Question, existence_questions, questions
from vlm_jax.scenes.truth import chair_counts, check, claims, mentioned_kinds, score
from vlm_jax.scenes.world import PARTNER, SPLITS, Dials, Scene, Thing, absent_kinds, present_kinds, scene

SCENES = [scene(split, i) for split in SPLITS for i in range(80)]
DESCRIBE = Question("holistic", "Describe the picture.", "", {})

# A large red ball top left, a small blue star top right, two green boxes below, the letter A on snow.
ROOM = Scene(
    "test",
    0,
    "snow",
    (
        Thing("ball", "red", "large", 0),
        Thing("star", "blue", "small", 2),
        Thing("box", "green", "large", 6),
        Thing("box", "green", "small", 7),
    ),
    letter="A",
    letter_cell=8,
)


def generator(seed=0):
    return np.random.default_rng(seed)


def test_captions_are_true_and_together_name_everything():
    complete = 0
    for here in SCENES:
        five = captions(here)
        assert len(five) == 5
        assert five == captions(here)
        for caption in five:
            assert claims(caption)
            assert all(check(claim, here) for claim in claims(caption)), (caption, here)
        complete += {k for c in five for k in mentioned_kinds(c)} == set(present_kinds(here))
    assert complete >= 0.98 * len(SCENES)


def test_true_descriptions_rate_high_and_planted_ones_low():
    rng = generator()
    planted = 0
    for here in SCENES:
        true = description(here, rng)
        judged = score(DESCRIBE, true, here)
        assert judged.rating >= 5, (true, here)
        assert judged.claims_wrong == 0
        synthetic = description(here, rng, synthetic=True)
        _, hallucinated, _ = chair_counts(synthetic, here)
        assert len(hallucinated) <= 1
        assert all(PARTNER[kind] in present_kinds(here) for kind in hallucinated)
        assert score(DESCRIBE, synthetic, here).hallucinated == bool(hallucinated)
        planted += bool(hallucinated)
        kind = absent_kinds(here)[0]
        assert chair_counts(describe(here, rng, kind), here)[1] == {kind}
    assert 0.5 < planted / len(SCENES) < 0.9


@pytest.mark.parametrize(("rate", "expected"), [(0.0, 0.0), (1.0, 1.0)])
def test_synthetic_rate(rate, expected):
    rng = generator(1)
    lonely = [s for s in SCENES if any(PARTNER[k] in absent_kinds(s) for k in present_kinds(s))]
    turned = [dataclasses.replace(s, dials=Dials(synthetic_rate=rate)) for s in lonely]
    found = [bool(chair_counts(description(s, rng, synthetic=True), s)[1]) for s in turned]
    assert np.mean(found) == expected


def test_descriptions_hedge_faint_things_only():
    rng = generator(2)
    clear = [scene("train", i, Dials(faint_rate=0.0)) for i in range(100)]
    faint = [scene("train", i, Dials(faint_rate=1.0)) for i in range(100)]
    assert not any("something" in description(s, rng) for s in clear)
    assert 20 < sum("something" in description(s, rng) for s in faint) < 80


def test_every_gold_answer_rates_high():
    rng = generator(3)
    seen = set()
    for here in SCENES:
        for question in questions(here, rng) + existence_questions(here, rng, pairs=2):
            judged = score(question, question.answer, here)
            assert judged.rating >= 5, (question, here)
            assert not judged.hallucinated
            assert judged.claims_wrong == 0
            seen.add(question.type)
    assert seen == {*QUESTION_TYPES, "existence"}


def test_wrong_answers_rate_low():
    """The gold answer of another scene, where it differs, is a hallucination or at best beside the point."""
    rng = generator(4)
    judged = {kind: [] for kind in QUESTION_TYPES}
    for here, other in itertools.pairwise(SCENES):
        swapped = {q.type: q for q in questions(other, rng)}
        for question in questions(here, rng):
            wrong = swapped.get(question.type)
            if wrong and not all(check(c, here) for c in claims(wrong.answer)):
                judged[question.type].append(score(question, wrong.answer, here).rating)
    for kind, ratings in judged.items():
        assert len(ratings) > 20, kind
        assert max(ratings) < 3, kind


def test_existence_questions_are_balanced_and_grammatical():
    for negatives in ("random", "partner", "mixed"):
        for here in SCENES[::10]:
            asked = existence_questions(here, generator(5), negatives, pairs=2)
            labels = [q.truth["present"] for q in asked]
            assert labels == [True, False] * (len(labels) // 2)
            assert len({q.truth["kind"] for q in asked}) == len(asked)
            for q in asked:
                assert q.truth["present"] == (q.truth["kind"] in present_kinds(here))
                assert q.text == f"Is there a {q.truth['kind']} in the image?"
    partners = existence_questions(ROOM, generator(), "partner", pairs=1)[1].truth["kind"]
    assert partners in {PARTNER[k] for k in present_kinds(ROOM)}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("There is a sphere, two mugs and an orange ship.", ["ball", "cup", "boat"]),
        ("There is no boat in the picture.", []),
        ("I do not see any boats, but there is a moon.", ["moon"]),
        ("No, there is a star.", ["star"]),
        ("A ball without a kite.", ["ball"]),
        ("I am not sure whether there is a tree.", []),
        ("footballs, starfish and boxers", []),
        ("", []),
    ],
)
def test_mentioned_kinds(text, expected):
    assert mentioned_kinds(text) == expected


@pytest.mark.parametrize(
    ("text", "claim", "holds"),
    [
        ("There is a large red ball.", Exists("ball", "red", "large"), True),
        ("The ball is small and red.", Exists("ball", "red", "small"), False),
        ("There are two green crates.", Exists("box", "green", count=2), True),
        ("There are 3 boxes.", Exists("box", count=3), False),
        ("There is something blue.", Exists(None, "blue"), True),
        ("There isn't a kite.", Exists("kite", negated=True), True),
        ("The ball is not red.", Exists("ball", "red", negated=True), False),
        ("The ball is to the left of the star.", Relation(Exists("ball"), "left of", Exists("star")), True),
        ("A ball below a box.", Relation(Exists("ball"), "below", Exists("box")), False),
        ("The star is smaller than the ball.", Larger("ball", "star"), True),
        (
            "There are fewer green things than red things.",
            More(Exists(None, "red"), Exists(None, "green")),
            False,
        ),
        ("There are as many red things as blue things.", More(Exists(None, "red"), Exists(None, "blue"), True), True),
        ("It is at night.", Ground("night"), False),
        ("The letter is A.", Letter("A"), True),
        ("There is no letter.", Letter(None, negated=True), False),
    ],
)
def test_claims(text, claim, holds):
    assert claim in claims(text)
    assert check(claim, ROOM) is holds


COLOUR = Question("attribute", "", "The ball is red.", {"kind": "ball", "attribute": "colour", "value": "red"})
ABSENT = Question("adversarial", "", "There is no kite in the picture.", {"kind": "kite"})
MORE = Question("comparison", "", "", {"more": "red", "than": "blue", "answer": False})
COUNT = Question("counting", "", "There are two boxes.", {"kind": "box", "count": 2})
SIDE = Question(
    "relation", "", "The ball is left of the star.", {"first": "ball", "relation": "left of", "second": "star"}
)
IS_THERE = Question("existence", "", "Yes.", {"kind": "ball", "present": True})


@pytest.mark.parametrize(
    ("question", "answer", "rating"),
    [
        (COLOUR, "Red.", 5),
        (COLOUR, "The large ball is red and lies above a box.", 6),
        (COLOUR, "The ball is red. There is a kite.", 2),
        (COLOUR, "The ball is blue.", 0),
        (COLOUR, "It is blue.", 0),
        (COLOUR, "I cannot tell.", 3),
        (COLOUR, "", 3),
        (ABSENT, "No.", 5),
        (ABSENT, "I do not see a kite.", 5),
        (ABSENT, "The kite is red.", 0),
        (ABSENT, "Red.", 0),
        (ABSENT, "There is nothing like that.", 5),
        (ABSENT, "There is no boat in the picture.", 3),
        (MORE, "There are as many red things as blue things.", 6),
        (MORE, "No.", 5),
        (MORE, "There are more blue things than yellow things.", 3),
        (MORE, "There are more red things than blue things.", 0),
        (COUNT, "2", 5),
        (COUNT, "There are boxes.", 4),
        (COUNT, "three", 0),
        (SIDE, "Left.", 5),
        (SIDE, "The star is right of the ball.", 6),
        (SIDE, "Right.", 0),
        (IS_THERE, "Yes, there is a red ball.", 6),
        (IS_THERE, "no", 0),
        (DESCRIBE, "a ball, a star and boxes in the snow", 6),
        (DESCRIBE, "a ball and a star", 5),
        (DESCRIBE, "There is a ball.", 4),
        (DESCRIBE, "There is something red, something blue and something green.", 4),
        (DESCRIBE, "a ball, a star, boxes and a moon", 2),
        (DESCRIBE, "A ball and a moon.", 1),
        (DESCRIBE, "a moon", 0),
        (DESCRIBE, "\x00 ▁▁ <s> 42 ... ?!", 3),
    ],
)
def test_ratings(question, answer, rating):
    judged = score(question, answer, ROOM)
    assert judged.rating == rating
    assert judged.hallucinated == (rating < 3)
    assert (judged.claims_wrong > 0) == (rating < 3)


def test_score_survives_garbage():
    rng = generator(6)
    text = "no not the a two red ball star kite is of left than more letter , . ? something and 7"
    words = text.split()
    asked = questions(ROOM, rng) + existence_questions(ROOM, rng)
    for _ in range(300):
        text = " ".join(rng.choice(words, int(rng.integers(0, 25))))
        assert all(0 <= score(question, text, ROOM).rating <= 6 for question in asked)


def test_annotator():
    true, false = "There is a ball and a star.", "There is a ball and a moon."
    honest = Dials(annotator_flip=0.0, annotator_length_taste=0.0)
    assert annotate(DESCRIBE, true, false, ROOM, generator(), honest) == (1, True)
    assert annotate(DESCRIBE, false, true, ROOM, generator(), honest) == (2, True)
    recoloured = "There is a blue ball, a red star and an orange box."
    assert annotate(DESCRIBE, recoloured, false, ROOM, generator(), honest)[0] == 1, "an absent kind is the worst"
    assert annotate(DESCRIBE, true, recoloured, ROOM, generator(), honest)[0] == 1
    longer = "There is a ball and a star and a ball and a star and a ball."
    wordy = Dials(annotator_flip=0.0, annotator_length_taste=0.3)
    assert annotate(DESCRIBE, true, longer, ROOM, generator(), wordy) == (2, False)
    rng = generator(7)
    flipped = [annotate(DESCRIBE, true, false, ROOM, rng, Dials(annotator_flip=0.1))[0] == 2 for _ in range(1000)]
    assert 0.07 < np.mean(flipped) < 0.13
