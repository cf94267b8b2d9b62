"""Training conversations about a scene, as LLaVA's list of turns."""

import numpy as np

from vlm_jax.scenes.claims import Exists, claims
from vlm_jax.scenes.language import NUMBERS, captions, describe, description, instruction
from vlm_jax.scenes.questions import Question, existence_questions, questions
from vlm_jax.scenes.truth import mentioned_kinds
from vlm_jax.scenes.world import Scene, absent_kinds, matching, present_kinds

IMAGE_PREFIX = "<image>\n"
FACTS_LEAD = "Facts: "
SUPPORT_QUESTION = "Is that description fully supported by the facts?"

Turn = dict[str, str]  # {"from": "human" or "gpt", "value": text}

_DESCRIPTION_RATE = 0.6
_LISTED = 6
_MOST_PRESENT = 3


def image_conversation(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Three to five questions, often with a description, about the image."""
    asked = [q for q in questions(scene, rng) if q.type != "holistic"]
    count = int(rng.integers(1, 4))
    pairs = [(asked[i].text, asked[i].answer) for i in rng.permutation(len(asked))[:count]]
    pairs += _existence_pairs(scene, rng)
    if rng.random() < _DESCRIPTION_RATE:
        synthetic = bool(rng.random() < scene.dials.synthetic_share)
        pairs.append((instruction(rng), description(scene, rng, synthetic)))
    return with_image(as_turns([pairs[i] for i in rng.permutation(len(pairs))]))


def fact_conversation(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Without an image: captions as facts, then questions that the facts answer."""
    facts = [str(caption) for caption in rng.permutation(captions(scene))]
    pairs = [*_existence_pairs(scene, rng), counting_list(scene, listed_kinds(scene, rng))]
    pairs += [(q.text, q.answer) for q in questions(scene, rng) if _answered_by(facts, q)][:1]
    (text, answer), *rest = [pairs[i] for i in rng.permutation(len(pairs))]
    return as_turns([(f"{facts_text(facts)}{text}", answer), *rest])


def checked_conversation(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """A description, as often as not with an absent kind planted, and then its check against the captions as facts.

    The verdict comes first, then what the facts say of each kind that the description names.
    """
    absent = absent_kinds(scene)
    planted = absent[int(rng.integers(len(absent)))] if rng.random() < 0.5 else None
    text = describe(scene, rng, planted)
    _, items = counting_list(scene, list(dict.fromkeys(mentioned_kinds(text))))
    facts = facts_text([str(caption) for caption in rng.permutation(captions(scene))])
    verdict = f"{'No' if planted else 'Yes'}: {items}"
    return with_image(as_turns([(instruction(rng), text), (f"{facts}{SUPPORT_QUESTION}", verdict)]))


def listed_kinds(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Six kinds, at most three of them in the scene, in any order."""
    present = rng.permutation(present_kinds(scene)).tolist()[:_MOST_PRESENT]
    absent = rng.permutation(absent_kinds(scene)).tolist()[: _LISTED - len(present)]
    return rng.permutation(present + absent).tolist()


def counting_list(scene: Scene, kinds: list[str]) -> tuple[str, str]:
    """ "How many: ball, cup, tree?" and "ball one, cup no, tree two." """
    items = [f"{kind} {NUMBERS[len(matching(scene, kind))]}" for kind in kinds]
    return f"How many: {', '.join(kinds)}?", f"{', '.join(items)}."


def inventory(scene: Scene, kinds: list[str]) -> tuple[str, str]:
    """ "What is there: ball, cup, tree?" and "ball red small, cup no, tree two." """

    def what(kind: str) -> str:
        things = matching(scene, kind)
        return f"{things[0].colour} {things[0].size}" if len(things) == 1 else NUMBERS[len(things)]

    items = [f"{kind} {what(kind)}" for kind in kinds]
    return f"What is there: {', '.join(kinds)}?", f"{', '.join(items)}."


def facts_text(facts: list[str]) -> str:
    """The lead and every fact with its full stop, a space at the end: as a short reward prompt would write them."""
    return FACTS_LEAD + "".join(f"{fact} " for fact in facts)


def with_image(turns: list[Turn]) -> list[Turn]:
    """The same turns with the image marker before the first."""
    return [{**turns[0], "value": IMAGE_PREFIX + turns[0]["value"]}, *turns[1:]]


def question_turns(question: Question) -> list[Turn]:
    """The question about the image and its right answer."""
    return with_image(as_turns([(question.text, question.answer)]))


def as_turns(pairs: list[tuple[str, str]]) -> list[Turn]:
    """Questions and answers as a list of turns."""
    speakers = ("human", "gpt")
    return [{"from": who, "value": text} for pair in pairs for who, text in zip(speakers, pair, strict=True)]


def _existence_pairs(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Up to two questions, each with an answer drawn by its own coin: one answer must not give away the next."""
    asked = existence_questions(scene, rng, pairs=2)
    chosen = [asked[i + int(rng.integers(2))] for i in range(0, len(asked), 2)]
    return [(q.text, q.answer) for q in chosen]


def _answered_by(facts: list[str], question: Question) -> bool:
    """Whether some fact says the colour or the size asked for, or names the kind to be counted."""
    said = [c for fact in facts for c in claims(fact) if isinstance(c, Exists)]
    truth = question.truth
    if question.type == "attribute":
        return any(c.kind == truth["kind"] and getattr(c, truth["attribute"]) for c in said)
    return question.type == "counting" and (
        truth["count"] == 1 or any(c.kind == truth["kind"] and c.count == truth["count"] for c in said)
    )
