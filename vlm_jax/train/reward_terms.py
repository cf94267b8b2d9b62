"""What is added to a reward model's score: rules about ending, length and a known right answer.

Source: LLaVA-RLHF ``models/rl_trainer.py`` and its data layout (facts: a stop penalty of 8, a length coefficient of
10 times each row's ``length_bonus``, a bonus of 2 for a right answer).
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

# ``caption_type`` of a prompt row: 1 general, 2 to 5 the right option is A to D, 6 the truth is No, 7 it is Yes.
_OPTIONS = {2: "A", 3: "B", 4: "C", 5: "D"}
_TRUTH_NO = 6


@dataclasses.dataclass(frozen=True)
class RewardTerms:
    """Coefficients in units of the reward model's score; each term is off at 0."""

    stop_penalty: float = 8.0
    length_coefficient: float = 10.0
    correct_bonus: float = 2.0


def correctness(answer: str, caption_type: int) -> float:
    """1 for naming the right option, +0.5 / -0.5 for No / Yes where the truth is No, else 0.

    An option counts if the answer starts with ``X.`` or contains ``correct option is X.``.
    """
    text = answer.strip()
    if caption_type in _OPTIONS:
        option = _OPTIONS[caption_type]
        return float(text.startswith(f"{option}.") or f"correct option is {option}." in text)
    if caption_type == _TRUTH_NO:
        return 0.5 * text.startswith("No") - 0.5 * text.startswith("Yes")
    return 0.0


def total_reward(
    terms: RewardTerms,
    scores: Float[Array, " b"],
    ended: Bool[Array, " b"],
    lengths: Int32[Array, " b"],
    limit: int,
    length_bonus: Float[Array, " b"],
    correct: Float[Array, " b"],
) -> Float[Array, " b"]:
    """Float32 reward of each answer: score - stop * [no end token] - length * bonus * n / limit + correct * c."""
    fraction = lengths.astype(jnp.float32) / limit
    return (
        scores.astype(jnp.float32)
        - terms.stop_penalty * ~ended
        - terms.length_coefficient * length_bonus * fraction
        + terms.correct_bonus * correct
    )
