"""Which answers are right, and the reward of an answer written out by hand."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.train.reward_terms import RewardTerms, correctness, total_reward

RELEASED = RewardTerms()


@pytest.mark.parametrize(
    ("answer", "caption_type", "expected"),
    [
        ("Yes, and A. is it", 1, 0.0),
        ("A. a cat", 2, 1.0),
        ("  A. a cat\n", 2, 1.0),
        ("A a cat", 2, 0.0),
        ("The correct option is A.", 2, 1.0),
        ("so the correct option is B. I think", 3, 1.0),
        ("The correct option is C", 4, 0.0),
        ("C. it is", 4, 1.0),
        ("D. it is", 4, 0.0),
        ("D.", 5, 1.0),
        ("B. or A.", 2, 0.0),
        ("No, there is none.", 6, 0.5),
        ("Yes.", 6, -0.5),
        ("There is no cat. No", 6, 0.0),
        ("no", 6, 0.0),
        ("", 6, 0.0),
        ("Yes.", 7, 0.0),
        ("No.", 7, 0.0),
    ],
)
def test_correctness(answer, caption_type, expected):
    assert correctness(answer, caption_type) == expected


def test_total_reward_by_hand():
    found = total_reward(
        RELEASED,
        scores=jnp.array([1.5, -2.0, 0.25]),
        ended=jnp.array([True, False, True]),
        lengths=jnp.array([448, 896, 1], jnp.int32),
        limit=896,
        length_bonus=jnp.array([1.0, -0.5, 4.0]),
        correct=jnp.array([0.0, 1.0, -0.5]),
    )
    np.testing.assert_allclose(found, [1.5 - 5.0, -2.0 - 8.0 + 5.0 + 2.0, 0.25 - 40 / 896 - 1.0], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_reward_of_seven_tenths_stays_that(dtype):
    off = RewardTerms(stop_penalty=0.0, length_coefficient=0.0, correct_bonus=0.0)
    scores = jnp.array([0.7, -0.7], dtype)
    nothing = jnp.zeros(2, dtype)
    found = total_reward(off, scores, jnp.array([True, False]), jnp.array([1, 2], jnp.int32), 2, nothing, nothing)
    assert found.dtype == jnp.float32
    np.testing.assert_array_equal(found, scores.astype(jnp.float32))
    np.testing.assert_allclose(found, [0.7, -0.7], rtol=1 / 256)


def test_each_term_is_off_at_zero():
    arguments = (
        jnp.zeros(1),
        jnp.array([False]),
        jnp.array([3], jnp.int32),
        4,
        jnp.array([1.0]),
        jnp.array([1.0]),
    )
    for change, expected in (
        ({"stop_penalty": 8.0}, -8.0),
        ({"length_coefficient": 10.0}, -7.5),
        ({"correct_bonus": 2.0}, 2.0),
        ({}, 0.0),
    ):
        terms = RewardTerms(**{"stop_penalty": 0.0, "length_coefficient": 0.0, "correct_bonus": 0.0, **change})
        assert float(total_reward(terms, *arguments)[0]) == expected
