"""Real positions in front, and back again."""

import jax
import jax.numpy as jnp
import numpy as np

from vlm_jax.models.real_first import real_first

MASK = jnp.array([[1, 1, 1, 1, 1], [0, 0, 1, 1, 1], [1, 0, 1, 0, 1], [1, 1, 0, 0, 0], [0, 0, 0, 0, 0]], bool)


def test_real_positions_keep_their_order():
    order = real_first(MASK)
    assert order.turn(jnp.broadcast_to(jnp.arange(5), (5, 5))).tolist() == [
        [0, 1, 2, 3, 4],
        [2, 3, 4, 0, 1],
        [0, 2, 4, 1, 3],
        [0, 1, 2, 3, 4],
        [0, 1, 2, 3, 4],
    ]


def test_restored_is_as_before():
    x = jax.random.normal(jax.random.key(0), (5, 5, 3))
    order = real_first(MASK)
    np.testing.assert_array_equal(order.restore(order.turn(x)), x)
    np.testing.assert_array_equal(order.turn(order.restore(x)), x)


def test_gradient_is_that_of_the_look_up():
    order = real_first(MASK)
    x, weights = (jax.random.normal(jax.random.key(i), (5, 5, 3)) for i in range(2))

    def looked_up(x):
        return (jnp.take_along_axis(x, order.there[..., None], axis=1) * weights).sum()

    np.testing.assert_array_equal(jax.grad(lambda x: (order.turn(x) * weights).sum())(x), jax.grad(looked_up)(x))
