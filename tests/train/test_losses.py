"""Losses against float64 formulas and torch, values and gradients."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import make_batch

from vlm_jax.train import losses
from vlm_jax.train.losses import (
    bradley_terry_loss,
    clipped_policy_loss,
    clipped_value_loss,
    masked_mean,
    next_token_loss,
    token_log_probs,
)


def test_masked_mean(rng):
    values, mask = rng.standard_normal((5, 7)), rng.random((5, 7)) < 0.4
    values[~mask] = np.nan
    found = masked_mean(jnp.asarray(values, jnp.float32), jnp.asarray(mask))
    np.testing.assert_allclose(found, values[mask].mean(), atol=1e-6)
    assert float(masked_mean(jnp.ones(3), jnp.zeros(3, bool))) == 0.0


def test_masked_mean_is_taken_in_float32():
    # bfloat16 cannot hold 303.
    found = masked_mean(jnp.ones((3, 101), jnp.bfloat16), jnp.ones((3, 101), bool))
    assert found.dtype == jnp.float32
    assert float(found) == 1.0


def numpy_log_probs(kernel, hidden, targets, temperature):
    """Log-probabilities, entropies, and the gradients of sum(weight * log p) by hand, all float64."""
    scores = hidden.astype(np.float64) @ kernel.astype(np.float64) / temperature
    scores -= scores.max(-1, keepdims=True)
    log_p = scores - np.log(np.exp(scores).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, targets[..., None], -1)[..., 0]
    return chosen, -(np.exp(log_p) * log_p).sum(-1), np.exp(log_p)


@pytest.mark.parametrize(("length", "temperature"), [(40, 1.0), (300, 1.0), (256, 0.7), (513, 0.7)])
def test_token_log_probs_and_their_gradients(rng, config, base, length, temperature):
    hidden = rng.standard_normal((2, length, 32)).astype(np.float32)
    targets = rng.integers(0, 64, (2, length)).astype(np.int32)
    weights = rng.standard_normal((2, length)).astype(np.float32)
    kernel = np.asarray(base["language"]["head"]["kernel"])

    def total(kernel, hidden):
        changed = {**base, "language": {**base["language"], "head": {"kernel": kernel}}}
        chosen, entropy = token_log_probs(config, changed, hidden, jnp.asarray(targets), temperature)
        return (chosen * weights).sum(), (chosen, entropy)

    run = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))
    (_, (chosen, entropy)), gradients = run(kernel, jnp.asarray(hidden))
    expected, expected_entropy, p = numpy_log_probs(kernel, hidden, targets, temperature)
    np.testing.assert_allclose(chosen, expected, atol=2e-5)
    np.testing.assert_allclose(entropy, expected_entropy, atol=2e-5)
    residual = (np.eye(64)[targets] - p) * weights[..., None] / temperature
    by_kernel = np.einsum("btd,btv->dv", hidden.astype(np.float64), residual)
    np.testing.assert_allclose(gradients[0], by_kernel, atol=1e-5 * np.abs(by_kernel).max())
    np.testing.assert_allclose(gradients[1], residual @ kernel.T.astype(np.float64), atol=1e-5)


def test_chunks_change_nothing(rng, config, base, monkeypatch):
    hidden = jnp.asarray(rng.standard_normal((2, 300, 32)), jnp.float32)
    targets = jnp.asarray(rng.integers(0, 64, (2, 300)), jnp.int32)

    def both(hidden):
        return jax.value_and_grad(lambda h: token_log_probs(config, base, h, targets)[0].sum())(hidden)

    value, gradient = jax.jit(both)(hidden)
    monkeypatch.setattr(losses, "_CHUNK", 1000)
    # A new function, so that nothing compiled is used again.
    whole_value, whole_gradient = jax.jit(lambda hidden: both(hidden))(hidden)
    np.testing.assert_allclose(value, whole_value, rtol=1e-6)
    np.testing.assert_allclose(gradient, whole_gradient, atol=1e-6)


def test_chunks_keep_the_logits_from_existing_at_once(config, base):
    """The scratch memory of a gradient stays below one float32 array of all logits."""
    rows, length = 2, 4096
    hidden = jax.ShapeDtypeStruct((rows, length, 32), jnp.float32)
    targets = jnp.zeros((rows, length), jnp.int32)
    gradient = jax.jit(jax.grad(lambda h: token_log_probs(config, base, h, targets)[0].sum()))
    used = gradient.lower(hidden).compile().memory_analysis().temp_size_in_bytes
    states = hidden.size * 4
    assert used < rows * length * config.language.vocab_size * 4 + states


@pytest.mark.parametrize("outside", [False, True])
def test_next_token_loss_equals_torch(rng, config, base, outside):
    import torch

    config = dataclasses.replace(config, image_token_id=99) if outside else config
    batch = make_batch((9, 12, 5), 12, config=config)
    hidden = jnp.asarray(rng.standard_normal((3, 12, 32)), jnp.float32)
    values, mask = next_token_loss(config, base, hidden, batch)
    scores = torch.tensor(np.asarray(hidden) @ np.asarray(base["language"]["head"]["kernel"]))
    labels = torch.tensor(np.where(batch.loss_mask, batch.tokens, -100)).long()
    # As transformers' causal models: position i predicts label i + 1.
    expected = torch.nn.functional.cross_entropy(
        scores[:, :-1].reshape(-1, 64), labels[:, 1:].reshape(-1), reduction="none", ignore_index=-100
    )
    np.testing.assert_array_equal(mask, labels[:, 1:].numpy() != -100)
    np.testing.assert_allclose(np.where(mask, values, 0).ravel(), expected.numpy(), atol=1e-5)
    assert np.isfinite(values).all()


SCORES = np.array([0.0, 1.5, -3.0, 30.0, -80.0, 1e4, -1e4, 3e38], np.float32)


def test_bradley_terry():
    first, second = (grid.ravel() for grid in np.meshgrid(SCORES[:-1], SCORES[:-1]))
    for choice in (0, 1):
        found = bradley_terry_loss(jnp.asarray(first), jnp.asarray(second), jnp.full(len(first), choice, jnp.int32))
        sign = 1 if choice else -1
        margin = sign * (second.astype(np.float64) - first)
        np.testing.assert_allclose(found, np.logaddexp(0, -margin), rtol=1e-6, atol=1e-30)


def test_bradley_terry_equals_torch_and_its_gradients_stay_finite():
    import torch

    choice = np.array([0, 1] * (len(SCORES) // 2), np.int32)
    second = torch.tensor(SCORES, requires_grad=True)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(
        second, torch.tensor(choice, dtype=torch.float32), reduction="sum"
    )
    expected.backward()
    nothing = jnp.zeros(len(SCORES))
    value, gradient = jax.value_and_grad(lambda second: bradley_terry_loss(nothing, second, jnp.asarray(choice)).sum())(
        jnp.asarray(SCORES)
    )
    np.testing.assert_allclose(value, expected.item(), rtol=1e-6)
    np.testing.assert_allclose(gradient, second.grad.numpy(), atol=1e-7)


def make_rows(rng):
    return (rng.standard_normal((3, 50)) for _ in range(3))


def as_float32(*arrays):
    return (jnp.asarray(array, jnp.float32) for array in arrays)


def test_clipped_policy_loss(rng):
    old, advantages, moved = make_rows(rng)
    new = old + 0.4 * moved
    ratio = np.exp(new - old)
    expected = np.maximum(-advantages * ratio, -advantages * np.clip(ratio, 0.8, 1.2))
    assert (ratio > 1.2).any()
    assert (ratio < 0.8).any()
    found = clipped_policy_loss(*as_float32(new, old, advantages), 0.2)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    # The gradient is that of the unclipped term, or none where clipping binds.
    gradient = jax.grad(lambda new: clipped_policy_loss(new, *as_float32(old, advantages), 0.2).sum())(*as_float32(new))
    binds = ((ratio > 1.2) & (advantages > 0)) | ((ratio < 0.8) & (advantages < 0))
    np.testing.assert_allclose(gradient, np.where(binds, 0.0, -advantages * ratio), atol=1e-5)


def test_clipped_value_loss(rng):
    old, returns, moved = make_rows(rng)
    new = old + 0.4 * moved
    clipped = np.clip(new, old - 0.2, old + 0.2)
    expected = 0.5 * np.maximum((new - returns) ** 2, (clipped - returns) ** 2)
    assert (np.abs(new - old) > 0.2).any()
    found = clipped_value_loss(*as_float32(new, old, returns), 0.2)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
