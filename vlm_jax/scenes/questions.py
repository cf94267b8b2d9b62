"""Questions with known answers: the eight types of MMHal-Bench, and yes/no questions as POPE asks them."""

import dataclasses

import numpy as np

from vlm_jax.scenes.language import (
    GROUND_PHRASES,
    NUMBERS,
    article,
    description,
    instruction,
    noun,
    relation_between,
)
from vlm_jax.scenes.world import (
    COLOURS,
    PARTNER,
    Scene,
    Thing,
    absent_kinds,
    matching,
    present_kinds,
    unique_things,
)

QUESTION_TYPES = (
    "attribute",
    "adversarial",
    "comparison",
    "counting",
    "relation",
    "environment",
    "holistic",
    "other",
)


@dataclasses.dataclass(frozen=True)
class Question:
    """A question, a right answer, and in ``truth`` what a rule needs to judge any other answer.

    The keys of ``truth`` by type: attribute (kind, attribute, value), adversarial (kind), comparison (larger, smaller)
    or (more, than, answer), counting (kind, count), relation (first, relation, second), environment (ground),
    holistic (none), other (letter), existence (kind, present).
    """

    type: str
    text: str
    answer: str
    truth: dict


def questions(scene: Scene, rng: np.random.Generator) -> list[Question]:
    """One question of each type that the scene allows, in the order of ``QUESTION_TYPES``."""
    made = (_MAKERS[kind](scene, rng) for kind in QUESTION_TYPES)
    return [question for question in made if question is not None]


def existence_questions(
    scene: Scene, rng: np.random.Generator, negatives: str = "mixed", pairs: int = 1
) -> list[Question]:
    """Up to ``pairs`` questions about present kinds, each followed by one about an absent kind.

    ``negatives`` is "random" (any absent kind), "partner" (the absent partner of a present kind where there is one) or
    "mixed" (either, by a coin).
    """
    present = rng.permutation(present_kinds(scene)).tolist()[:pairs]
    asked: list[str] = []
    for kind in present:
        options = [k for k in absent_kinds(scene) if k not in asked]
        asked += [kind, _pick_absent(scene, rng, options, _partner_chance(negatives))]
    return [existence_question(kind, kind in present) for kind in asked]


def existence_question(kind: str, present: bool) -> Question:
    """ "Is there a ball in the image?" """
    truth = {"kind": kind, "present": present}
    answer = "Yes." if present else "No."
    return Question("existence", f"Is there {article(kind)} in the image?", answer, truth)


def _partner_chance(negatives: str) -> float:
    return {"random": 0.0, "mixed": 0.5, "partner": 1.0}[negatives]


def _choose(rng: np.random.Generator, options):
    return options[int(rng.integers(len(options)))]


def _pick_absent(scene: Scene, rng: np.random.Generator, options: list[str], partner_chance: float) -> str:
    partners = [k for k in options if PARTNER[k] in present_kinds(scene)]
    return _choose(rng, partners if partners and rng.random() < partner_chance else options)


def _attribute(scene: Scene, rng: np.random.Generator) -> Question | None:
    things = unique_things(scene)
    if not things:
        return None
    thing = _choose(rng, things)
    if rng.random() < 0.7:
        truth = {"kind": thing.kind, "attribute": "colour", "value": thing.colour}
        return Question("attribute", f"What colour is the {thing.kind}?", f"The {thing.kind} is {thing.colour}.", truth)
    truth = {"kind": thing.kind, "attribute": "size", "value": thing.size}
    return Question("attribute", f"Is the {thing.kind} small or large?", f"The {thing.kind} is {thing.size}.", truth)


def _adversarial(scene: Scene, rng: np.random.Generator) -> Question:
    kind = _pick_absent(scene, rng, absent_kinds(scene), 0.5)
    text = f"What colour is the {kind}?" if rng.random() < 0.7 else f"Is the {kind} small or large?"
    return Question("adversarial", text, f"There is no {kind} in the picture.", {"kind": kind})


def _comparison(scene: Scene, rng: np.random.Generator) -> Question:
    things = unique_things(scene)
    pairs = [(a, b) for a in things for b in things if a.size == "large" and b.size == "small"]
    if pairs and rng.random() < 0.6:
        larger, smaller = (thing.kind for thing in _choose(rng, pairs))
        first, second = (larger, smaller) if rng.random() < 0.5 else (smaller, larger)
        text = f"Which is larger, the {first} or the {second}?"
        answer = f"The {larger} is larger than the {smaller}."
        return Question("comparison", text, answer, {"larger": larger, "smaller": smaller})
    seen = sorted({thing.colour for thing in scene.things})
    first = _choose(rng, seen)
    second = _choose(rng, [c for c in COLOURS if c != first])
    if rng.random() < 0.5:
        first, second = second, first
    return _colour_counts(scene, first, second)


def _colour_counts(scene: Scene, first: str, second: str) -> Question:
    difference = len(matching(scene, colour=first)) - len(matching(scene, colour=second))
    text = f"Are there more {first} things than {second} things?"
    if difference > 0:
        answer = f"Yes, there are more {first} things than {second} things."
    elif difference < 0:
        answer = f"No, there are more {second} things than {first} things."
    else:
        answer = f"No, there are as many {first} things as {second} things."
    return Question("comparison", text, answer, {"more": first, "than": second, "answer": difference > 0})


def _counting(scene: Scene, rng: np.random.Generator) -> Question:
    repeated = [k for k in present_kinds(scene) if len(matching(scene, k)) > 1]
    # Half of the questions ask about a repeated kind where there is one; else the answer is nearly always one.
    kind = _choose(rng, repeated if repeated and rng.random() < 0.5 else present_kinds(scene))
    count = len(matching(scene, kind))
    answer = f"There {'is' if count == 1 else 'are'} {NUMBERS[count]} {noun(kind, count)}."
    return Question("counting", f"How many {noun(kind, 2)} are there?", answer, {"kind": kind, "count": count})


def _relation(scene: Scene, rng: np.random.Generator) -> Question | None:
    things = unique_things(scene)
    options: list[tuple[Thing, str, Thing, int]] = [
        (a, words, b, axis)
        for a in things
        for b in things
        for axis in (0, 1)
        if a is not b and (words := relation_between(a, b, axis)) is not None
    ]
    if not options:
        return None
    first, words, second, axis = _choose(rng, options)
    sides = ("left or right of", "above or below")[axis]
    return Question(
        "relation",
        f"Where is the {first.kind}, {sides} the {second.kind}?",
        f"The {first.kind} is {words} the {second.kind}.",
        {"first": first.kind, "relation": words, "second": second.kind},
    )


def _environment(scene: Scene, rng: np.random.Generator) -> Question:
    answer = f"It is {GROUND_PHRASES[scene.ground]}."
    return Question("environment", "Where is this?", answer, {"ground": scene.ground})


def _holistic(scene: Scene, rng: np.random.Generator) -> Question:
    return Question("holistic", instruction(rng), description(scene, rng), {})


def _other(scene: Scene, rng: np.random.Generator) -> Question:
    answer = f"The letter is {scene.letter}." if scene.letter else "There is no letter in the picture."
    return Question("other", "Which letter is in the picture?", answer, {"letter": scene.letter})


_MAKERS = {
    "attribute": _attribute,
    "adversarial": _adversarial,
    "comparison": _comparison,
    "counting": _counting,
    "relation": _relation,
    "environment": _environment,
    "holistic": _holistic,
    "other": _other,
}
