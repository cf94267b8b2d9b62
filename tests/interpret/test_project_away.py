"""ProjectAway's edit against the released code's output and a written-out formula."""

import jax
import jax.numpy as jnp
import numpy as np
from shared_data import golden

from vlm_jax.interpret.project_away import project_away


def test_the_edit_equals_the_released_codes():
    case = golden("projectaway_subtract")
    assert len(case["cases"]) > 5
    with jax.enable_x64(True):
        states = jnp.array(case["image"])
        for one in case["cases"]:
            directions = jnp.array([case["text"][place][0] for place in one["order"]])
            found = project_away(states, directions, one["weight"])
            np.testing.assert_allclose(found, one["out"], rtol=0, atol=1e-12)


def test_every_row_has_its_own_share():
    rng = np.random.default_rng(0)
    states, directions = rng.standard_normal((2, 3, 5)), rng.standard_normal((4, 5))
    expected = states.copy()
    for row in range(2):
        for place in range(3):
            for direction in directions:
                share = expected[row, place] @ direction / (direction @ direction)
                if share > 0:
                    expected[row, place] -= 1.5 * share * direction
    found = project_away(jnp.array(states, jnp.float32), jnp.array(directions, jnp.float32), 1.5)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_nothing_to_take_out():
    states = jnp.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(project_away(states, jnp.zeros((1, 3)), 1.0), states)
    np.testing.assert_array_equal(project_away(states, jnp.zeros((0, 3)), 1.0), states)
    # Against the direction: left alone.
    np.testing.assert_array_equal(project_away(-states, jnp.ones((1, 3)), 1.0), -states)
