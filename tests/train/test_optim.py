"""The learning rate of every step, and the optimizer against a written-out AdamW."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.train.optim import Optim, apply_gradients, split_rows, start, summed


def test_cosine_with_warm_up_ends_at_zero():
    optim = Optim(2.0, steps=10, warmup_steps=4)
    rates = [float(optim.rate(step)) for step in range(11)]
    expected = [2 * s / 4 for s in range(4)] + [1 + np.cos(np.pi * s / 6) for s in range(7)]
    np.testing.assert_allclose(rates, expected, atol=1e-6)


@pytest.mark.parametrize(("steps", "warmup"), [(1, 0), (1, 5), (3, 3), (2, 100)])
def test_a_warm_up_longer_than_the_run_is_cut(steps, warmup):
    rates = [float(Optim(1.0, steps=steps, warmup_steps=warmup).rate(step)) for step in range(steps)]
    assert np.isfinite(rates).all()
    assert max(rates) == 1.0


def test_constant():
    optim = Optim(0.5, schedule="constant", warmup_steps=2)
    assert [float(optim.rate(step)) for step in (0, 1, 2, 1000)] == [0.0, 0.25, 0.5, 0.5]


def test_updates_equal_adamw_by_hand():
    optim = Optim(0.1, schedule="constant", clip_norm=1.0, weight_decay=0.01, b2=0.99)
    weights = np.array([1.0, -2.0, 0.5])
    state = start(optim, {"head": {"kernel": jnp.asarray(weights, jnp.float32)}})
    first, second = np.zeros(3), np.zeros(3)
    for step, gradient in enumerate(np.array([[3.0, 0.0, 4.0], [0.1, -0.2, 0.2], [1.0, 1.0, 1.0]]), 1):
        state, metrics = apply_gradients(optim, state, {"head": {"kernel": jnp.asarray(gradient, jnp.float32)}})
        norm = np.linalg.norm(gradient)
        clipped = gradient / max(norm, 1.0)
        first, second = 0.9 * first + 0.1 * clipped, 0.99 * second + 0.01 * clipped**2
        update = (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.99**step)) + 1e-8)
        weights = weights - 0.1 * (update + 0.01 * weights)
        np.testing.assert_allclose(state.params["head"]["kernel"], weights, rtol=1e-5)
        np.testing.assert_allclose(metrics["gradient_norm"], norm, rtol=1e-6)
        assert float(metrics["learning_rate"]) == pytest.approx(0.1)
        assert int(state.step) == step


def test_the_sum_of_parts_is_that_of_the_whole():
    values = jnp.asarray(np.random.default_rng(0).standard_normal(24), jnp.float32)
    for parts in (1, 4):
        found = summed(lambda part: {"sum": part.sum()}, split_rows(values, parts))
        np.testing.assert_allclose(found["sum"], values.sum(), rtol=1e-6)


def test_one_part_is_added_to_nothing():
    program = jax.make_jaxpr(lambda parts: summed(jnp.sin, parts))(jnp.ones((1, 5)))
    assert "scan" not in str(program)
    assert "scan" in str(jax.make_jaxpr(lambda parts: summed(jnp.sin, parts))(jnp.ones((2, 5))))


def test_split_rows_keeps_each_devices_rows_together():
    parts = split_rows({"x": jnp.arange(8)}, 2)["x"]
    np.testing.assert_array_equal(parts, [[0, 2, 4, 6], [1, 3, 5, 7]])
