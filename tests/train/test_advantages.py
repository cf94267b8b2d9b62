"""KL estimates, advantages and whitening against float64 formulas written out without tricks."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.train.advantages import generalised_advantages, kl_estimate, whiten


@pytest.mark.parametrize(
    ("estimator", "formula"),
    [
        ("k1", lambda log_ratio: log_ratio),
        ("k1_clamped", lambda log_ratio: np.maximum(log_ratio, 0)),
        ("k3", lambda log_ratio: np.exp(-log_ratio) - 1 + log_ratio),
    ],
)
def test_kl_estimates(rng, estimator, formula):
    policy, reference = rng.standard_normal((2, 4, 9)).astype(np.float32)
    policy[0, :3] = reference[0, :3] + [0.0, 1e-4, -1e-4]
    found = kl_estimate(jnp.asarray(policy), jnp.asarray(reference), estimator)
    expected = formula(policy.astype(np.float64) - reference)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)
    if estimator != "k1":
        assert (np.asarray(found) >= 0).all()


def test_k1_and_k3_have_the_same_mean_and_the_clamped_one_more(rng):
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    drawn = rng.choice(3, size=(1, 200_000), p=p)
    arguments = (jnp.asarray(np.log(np.array(side)[drawn]), jnp.float32) for side in (p, q))
    policy, reference = arguments
    truth = float((p * np.log(p / q)).sum())
    means = {name: float(kl_estimate(policy, reference, name).mean()) for name in ("k1", "k1_clamped", "k3")}
    assert means["k1"] == pytest.approx(truth, abs=0.01)
    assert means["k3"] == pytest.approx(truth, abs=0.01)
    assert means["k1_clamped"] > truth + 0.05


def naive_advantages(rewards, values, gamma, lam):
    """The double sum of the paper: sum over k of (gamma lambda)^k (r + gamma V' - V)."""
    slots = len(rewards)
    following = np.append(values[1:], 0.0)
    errors = rewards + gamma * following - values
    return np.array([sum((gamma * lam) ** (s - t) * errors[s] for s in range(t, slots)) for t in range(slots)])


@pytest.mark.parametrize("lam", [0.0, 0.5, 0.95, 1.0])
@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_advantages_of_ragged_answers(rng, gamma, lam):
    lengths, slots = [1, 5, 13, 20], 20
    mask = np.arange(slots) < np.array(lengths)[:, None]
    rewards, values = np.where(mask, rng.standard_normal((2, 4, slots)), 0.0)
    advantages, returns = generalised_advantages(
        jnp.asarray(rewards, jnp.float32), jnp.asarray(values, jnp.float32), gamma, lam
    )
    for row, length in enumerate(lengths):
        # Each answer alone, without its padding.
        expected = naive_advantages(rewards[row, :length], values[row, :length], gamma, lam)
        np.testing.assert_allclose(advantages[row, :length], expected, atol=1e-5)
        np.testing.assert_allclose(returns[row, :length], expected + values[row, :length], atol=1e-5)
        assert not np.asarray(advantages[row, length:]).any()
        if gamma == lam == 1.0:
            np.testing.assert_allclose(returns[row, 0], rewards[row].sum(), atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 1e3, -1e4])
def test_whiten(rng, offset):
    values = (offset + rng.standard_normal((6, 30))).astype(np.float32)
    mask = rng.random((6, 30)) < 0.6
    exact = values.astype(np.float64)
    expected = (exact - exact[mask].mean()) / np.sqrt(exact[mask].var() + 1e-8)
    garbage = np.where(mask, values, np.float32(1e6))
    found = np.asarray(whiten(jnp.asarray(garbage), jnp.asarray(mask)))
    assert not found[~mask].any()
    # Float32 stores an offset of 1e4 to a thousandth.
    np.testing.assert_allclose(found[mask], expected[mask], atol=1e-5 + 1e-6 * abs(offset))


def test_whitening_a_constant_gives_zero():
    found = whiten(jnp.full((2, 3), 5.0), jnp.ones((2, 3), bool))
    np.testing.assert_array_equal(found, np.zeros((2, 3)))
