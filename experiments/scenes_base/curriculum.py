"""What the language model reads first: conversations that teach it to look things up.

Whether "a ball" is in the image depends on question and image together and on neither alone, so a fresh model that is
asked one such question a picture stays at chance for long. An inventory asks for six kinds at once, and its answer
repeats each kind just before what is to be said of it: six answers a picture, each one look away.
"""

from vlm_jax.scenes.conversations import Turn, as_turns, inventory, listed_kinds, with_image
from vlm_jax.scenes.language import description, instruction
from vlm_jax.scenes.questions import existence_questions, questions
from vlm_jax.scenes.world import Scene, generator_for


def first_conversation(here: Scene) -> list[Turn]:
    """By a coin, an inventory and two questions after it, or a true description and three questions in any order; one
    of the questions is about existence."""
    rng = generator_for(here, "describe")
    others = [question for question in questions(here, rng) if question.type != "holistic"]
    shuffled = [others[i] for i in rng.permutation(len(others))]
    asked = [existence_questions(here, rng)[int(rng.integers(2))], *shuffled[:2]]
    pairs = [(question.text, question.answer) for question in asked]
    if rng.random() < 0.5:
        return with_image(as_turns([inventory(here, listed_kinds(here, rng)), *pairs[:2]]))
    pairs.append((instruction(rng), description(here, rng, synthetic=False)))
    return with_image(as_turns([pairs[i] for i in rng.permutation(len(pairs))]))
