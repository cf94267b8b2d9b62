"""The choice of one token against the rule written out in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.errors import InputError
from vlm_jax.generate.sampling import Part, Sampling, choose, keep_top_k, keep_top_p
from vlm_jax.train.optim import split_rows

NOTHING = 10**6  # A forbidden id outside every vocabulary.


def softmax(scores):
    weights = np.exp(scores - scores.max())
    return weights / weights.sum()


def distribution(logits, sampling, forbidden=NOTHING):
    """Probabilities of one row: placeholder, temperature, top-k (ties kept), then the smallest set that reaches p."""
    scores = np.array(logits, np.float64)
    if forbidden < len(scores):
        scores[forbidden] = -np.inf
    scores = scores / sampling.temperature
    if sampling.top_k:
        scores[scores < np.sort(scores)[::-1][: sampling.top_k][-1]] = -np.inf
    if sampling.top_p < 1:
        probabilities, mass = softmax(scores), 0.0
        for token in np.argsort(-scores, kind="stable"):
            if mass >= sampling.top_p:
                scores[token] = -np.inf
            mass += probabilities[token]
    return softmax(scores)


rng = np.random.default_rng(0)
LOGITS = {
    "random": 3 * rng.standard_normal((4, 11)),
    "ties": rng.integers(0, 3, (6, 11)),
    "all equal": np.zeros((2, 8)),
    "extreme": np.array([[1e4, -1e4, 9999, 0, 1e4], [-1e30, -3e30, 0, 1e-30, -1e4], [80, 79, -80, 0, 60]]),
    "minus infinity": np.array([[-np.inf, 0.0, -np.inf, 1.0]]),
}
RULES = [
    Sampling(),
    Sampling(temperature=0.5),
    Sampling(top_k=1),
    Sampling(top_k=3),
    Sampling(top_k=1000),
    Sampling(top_p=0.3),
    Sampling(top_p=0.9),
    Sampling(top_p=1e-6),
    Sampling(temperature=2.0, top_k=4, top_p=0.7),
]


@pytest.mark.parametrize("sampling", RULES, ids=str)
@pytest.mark.parametrize(("name", "forbidden"), list(zip(LOGITS, [NOTHING, 1, NOTHING, 0, 1], strict=True)))
def test_draws_and_log_probs_follow_the_rule(name, forbidden, sampling):
    logits = np.resize(LOGITS[name], (256, LOGITS[name].shape[1])).astype(np.float32)
    tokens, log_probs = choose(jax.random.key(1), jnp.asarray(logits), sampling, forbidden)
    tokens = np.asarray(tokens)
    assert tokens.dtype == np.int32
    expected = np.stack([distribution(row, sampling, forbidden) for row in logits])
    assert (expected[np.arange(len(tokens)), tokens] > 0).all()
    np.testing.assert_allclose(log_probs, np.log(expected[np.arange(len(tokens)), tokens]), rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.7, top_k=5, top_p=0.8)], ids=str)
def test_frequencies_are_the_probabilities(sampling):
    row, draws = LOGITS["random"][0].astype(np.float32), 20_000
    tokens, _ = choose(jax.random.key(2), jnp.broadcast_to(row, (draws, len(row))), sampling, 4)
    expected = distribution(row, sampling, 4)
    found = np.bincount(tokens, minlength=len(row)) / draws
    assert (np.abs(found - expected) <= 5 * np.sqrt(expected * (1 - expected) / draws)).all()


@pytest.mark.parametrize(("p", "kept"), [(0.25, 1), (0.26, 2), (0.5, 2), (0.51, 3), (0.99, 4)])
def test_top_p_cuts_ties_by_id(p, kept):
    found = np.isfinite(keep_top_p(jnp.zeros((1, 4)), p))[0]
    np.testing.assert_array_equal(found, np.arange(4) < kept)


def test_top_k_keeps_ties():
    logits = jnp.array([[1.0, 2.0, 2.0, 0.0], [3.0, 2.0, 1.0, 0.0]])
    np.testing.assert_array_equal(
        np.isfinite(keep_top_k(logits, 1)), [[False, True, True, False], [True, False, False, False]]
    )


def test_temperature_to_zero_is_argmax():
    logits = jnp.asarray(LOGITS["random"], jnp.float32)
    cold, cold_log_probs = choose(jax.random.key(0), logits, Sampling(temperature=1e-6), NOTHING)
    greedy, _ = choose(jax.random.key(3), logits, Sampling(temperature=0.0), NOTHING)
    np.testing.assert_array_equal(cold, np.argmax(LOGITS["random"], -1))
    np.testing.assert_array_equal(greedy, cold)
    np.testing.assert_allclose(cold_log_probs, 0.0, atol=1e-6)


@pytest.mark.parametrize("temperature", [0.0, 1.0, 100.0])
@pytest.mark.parametrize("huge", [50.0, 1e9, 3e38])
def test_the_placeholder_is_never_drawn(temperature, huge):
    logits = jnp.zeros((500, 6)).at[:, 2].set(huge)
    for forbidden, drawn in ((2, False), (6, True)):
        tokens, _ = choose(jax.random.key(0), logits, Sampling(temperature=temperature), forbidden)
        assert bool((tokens == 2).any()) == drawn


@pytest.mark.parametrize(
    "bad",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"temperature": 1e-40},
        {"temperature": 1e-7},
        {"temperature": 1e7},
        {"temperature": float("inf")},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1e-40},
        {"top_p": 1.1},
        {"top_p": float("nan")},
        {"top_k": -1},
    ],
)
def test_impossible_rules_are_refused(bad):
    with pytest.raises(InputError, match="expected max_new_tokens >= 1"):
        Sampling(**bad)


@pytest.mark.parametrize(
    "sampling", [Sampling(temperature=1e-6), Sampling(temperature=1e6), Sampling(top_p=1e-6)], ids=str
)
def test_the_ends_of_the_ranges_are_distributions(sampling):
    logits = jnp.asarray(300 * rng.standard_normal((64, 11)), jnp.float32)
    tokens, log_probs = choose(jax.random.key(0), logits, sampling, NOTHING)
    assert np.isfinite(log_probs).all()
    if sampling.temperature < 1e6:
        np.testing.assert_array_equal(tokens, logits.argmax(-1))


@pytest.mark.parametrize("sampling", [Sampling(temperature=0.0), *RULES], ids=str)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 4, slice(None)], ids=str)
def test_what_is_no_distribution_gives_no_finite_log_prob(place, bad, sampling):
    """``Generation.finite`` is read from them."""
    logits = np.resize(LOGITS["random"], (6, 11)).astype(np.float32)
    logits[2, place] = bad
    for forbidden in (NOTHING, 4) if place != 4 else (NOTHING,):
        _, log_probs = choose(jax.random.key(0), jnp.asarray(logits), sampling, forbidden)
        assert np.isfinite(log_probs).tolist() == [True, True, False, True, True, True]


def test_the_draw_is_that_of_jax():
    logits, key = jnp.asarray(rng.standard_normal((64, 300)), jnp.float32), jax.random.key(5)
    tokens, _ = choose(key, logits, Sampling(), NOTHING)
    np.testing.assert_array_equal(tokens, jax.random.categorical(key, logits))


@pytest.mark.parametrize("parts", [2, 8])
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=0.5, top_k=7, top_p=0.9)], ids=str)
def test_a_part_draws_what_it_draws_in_the_whole(sampling, parts):
    logits, key = jnp.asarray(rng.standard_normal((16, 30)), jnp.float32), jax.random.key(6)
    whole = choose(key, logits, sampling, NOTHING)
    for number, rows in enumerate(split_rows(logits, parts)):
        found = choose(key, rows, sampling, NOTHING, Part(jnp.int32(number), parts))
        jax.tree.map(np.testing.assert_array_equal, found, tuple(split_rows(x, parts)[number] for x in whole))
