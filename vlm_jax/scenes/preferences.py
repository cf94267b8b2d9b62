"""An annotator who compares two answers: honest, a little careless, and fond of length."""

import numpy as np

from vlm_jax.scenes.questions import Question
from vlm_jax.scenes.truth import chair_counts, score
from vlm_jax.scenes.world import STANDARD_DIALS, Dials, Scene

ABSENT_KIND = -4.0
FALSE_CLAIM = -1.0
RIGHT_CLAIM = 0.5


def annotate(
    prompt_question: Question,
    answer_1: str,
    answer_2: str,
    scene: Scene,
    rng: np.random.Generator,
    dials: Dials = STANDARD_DIALS,
) -> tuple[int, bool]:
    """Which answer is preferred (1 or 2), and whether the two differ in false claims.

    Dislikes most what is not there at all, then other false claims (a colour, a relation), likes right ones, has a
    taste for length, and slips at a known rate.
    """
    false_1, utility_1 = _judge(prompt_question, answer_1, scene, dials)
    false_2, utility_2 = _judge(prompt_question, answer_2, scene, dials)
    second_better = utility_2 > utility_1 or (utility_2 == utility_1 and rng.random() < 0.5)
    slipped = rng.random() < dials.annotator_flip
    return 1 + (second_better != slipped), false_1 != false_2


def _judge(question: Question, answer: str, scene: Scene, dials: Dials) -> tuple[int, float]:
    judged = score(question, answer, scene)
    absent = len(chair_counts(answer, scene)[1])
    # Naming an absent kind is one false claim or more ("two boats", "a red boat").
    others = max(judged.claims_wrong - absent, 0)
    taste = dials.annotator_length_taste * len(answer.split()) / 10
    utility = ABSENT_KIND * absent + FALSE_CLAIM * others + RIGHT_CLAIM * judged.claims_right + taste
    return judged.claims_wrong, utility
