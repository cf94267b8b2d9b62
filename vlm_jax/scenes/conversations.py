"""Training conversations about a scene, as LLaVA's list of turns."""

import numpy as np

from vlm_jax.scenes.claims import Exists, claims
from vlm_jax.scenes.language import captions, describe, description, instruction
from vlm_jax.scenes.questions import Question, existence_questions, questions
from vlm_jax.scenes.world import Scene, absent_kinds

IMAGE_PREFIX = "<image>\n"
FACTS_LEAD = "Facts: "
SUPPORT_QUESTION = "Is this description fully supported by the facts?"

Turn = dict[str, str]  # {"from": "human" or "gpt", "value": text}

_DESCRIPTION_RATE = 0.6


def image_conversation(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Three to five questions, often with a description, about the image."""
    asked = [q for q in questions(scene, rng) if q.type != "holistic"]
    count = int(rng.integers(1, 4))
    pairs = [(asked[i].text, asked[i].answer) for i in rng.permutation(len(asked))[:count]]
    pairs += _existence_pairs(scene, rng)
    if rng.random() < _DESCRIPTION_RATE:
        synthetic = bool(rng.random() < scene.dials.synthetic_share)
        pairs.append((instruction(rng), description(scene, rng, synthetic)))
    return with_image(_turns([pairs[i] for i in rng.permutation(len(pairs))]))


def fact_conversation(scene: Scene, rng: np.random.Generator) -> list[Turn]:
    """Without an image: captions as facts, then questions that the facts answer."""
    facts = [str(caption) for caption in rng.permutation(captions(scene))]
    pairs = _existence_pairs(scene, rng)
    pairs += [(q.text, q.answer) for q in questions(scene, rng) if _answered_by(facts, q)][:1]
    pairs = [pairs[i] for i in rng.permutation(len(pairs))]
    # Never first: facts and a whole description before the first answer would outgrow a training row.
    pairs.insert(int(rng.integers(1, len(pairs) + 1)), _support_pair(scene, rng))
    (text, answer), *rest = pairs
    return _turns([(f"{facts_text(facts)}{text}", answer), *rest])


def facts_text(facts: list[str]) -> str:
    """The lead and every fact with its full stop, a space at the end: as a short reward prompt would write them."""
    return FACTS_LEAD + "".join(f"{fact} " for fact in facts)


def with_image(turns: list[Turn]) -> list[Turn]:
    """The same turns with the image marker before the first."""
    return [{**turns[0], "value": IMAGE_PREFIX + turns[0]["value"]}, *turns[1:]]


def question_turns(question: Question) -> list[Turn]:
    """The question about the image and its right answer."""
    return with_image(_turns([(question.text, question.answer)]))


def _turns(pairs: list[tuple[str, str]]) -> list[Turn]:
    speakers = ("human", "gpt")
    return [{"from": who, "value": text} for pair in pairs for who, text in zip(speakers, pair, strict=True)]


def _existence_pairs(scene: Scene, rng: np.random.Generator) -> list[tuple[str, str]]:
    """Up to two questions, each with an answer drawn by its own coin: one answer must not give away the next."""
    asked = existence_questions(scene, rng, pairs=2)
    chosen = [asked[i + int(rng.integers(2))] for i in range(0, len(asked), 2)]
    return [(q.text, q.answer) for q in chosen]


def _support_pair(scene: Scene, rng: np.random.Generator) -> tuple[str, str]:
    planted = None
    if rng.random() < 0.5:
        absent = absent_kinds(scene)
        planted = absent[int(rng.integers(len(absent)))]
    answer = f"No, there is no {planted}." if planted else "Yes."
    return f"{SUPPORT_QUESTION} {describe(scene, rng, planted)}", answer


def _answered_by(facts: list[str], question: Question) -> bool:
    """Whether some fact says the colour or the size asked for, or names the kind to be counted."""
    said = [c for fact in facts for c in claims(fact) if isinstance(c, Exists)]
    truth = question.truth
    if question.type == "attribute":
        return any(c.kind == truth["kind"] and getattr(c, truth["attribute"]) for c in said)
    return question.type == "counting" and (
        truth["count"] == 1 or any(c.kind == truth["kind"] and c.count == truth["count"] for c in said)
    )
