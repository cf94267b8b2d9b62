"""The two supervised steps: what padding, splitting and repetition must not change, and that they learn."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import assert_close, gradients_in, make_batch, make_pairs, role_weights, widened

from vlm_jax.arrays import PreferenceBatch
from vlm_jax.models.llava import forward, scores
from vlm_jax.parallel.compile import jit_step, place
from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.train.optim import Optim, start
from vlm_jax.train.reward import RewardSettings, last_real, reward_scores, reward_step
from vlm_jax.train.sft import SftSettings, overlay, sft_step

# No clipping, so that a test can read the gradient from the optimizer.
OPTIM = Optim(3e-3, schedule="constant", clip_norm=1e9)
LENGTHS = (12, 7, 10, 14)

run = jax.jit(forward, static_argnums=0)
score = jax.jit(reward_scores, static_argnums=0)

# A strong centring, so that its gradient is seen.
REWARD = RewardSettings(OPTIM, centring=0.25)


def sft_state(role):
    return place(make_mesh(), start(OPTIM, {"lora": role["lora"]}))


def reward_state(role):
    return place(make_mesh(), start(OPTIM, role))


@pytest.fixture(scope="module")
def sft(config):
    return jit_step(sft_step, make_mesh(), config, SftSettings(OPTIM), state=sft_state(role_weights()))


@pytest.fixture(scope="module")
def reward(config):
    return jit_step(reward_step, make_mesh(), config, REWARD, state=reward_state(role_weights()))


@pytest.fixture(scope="module")
def plain_sft(base, sft):
    """State and metrics after one step on an unsplit batch."""
    return sft(base, sft_state(role_weights()), make_batch(LENGTHS, 14))


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_never_changes_the_sft_loss(base, role, sft, plain_sft, side):
    state, metrics = sft(base, sft_state(role), widened(make_batch(LENGTHS, 14), 3, side))
    expected_state, expected = plain_sft
    assert float(metrics["tokens"]) == float(expected["tokens"]) > 10
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    assert_close(gradients_in(expected_state), gradients_in(state), 1e-5)


def test_microbatches_give_the_same_update(config, base, role, plain_sft):
    split = jax.jit(functools.partial(sft_step, config, SftSettings(OPTIM, microbatches=2)))
    state, metrics = split(base, sft_state(role), make_batch(LENGTHS, 14))
    expected_state, expected = plain_sft
    np.testing.assert_allclose(metrics["loss"], expected["loss"], rtol=1e-6)
    np.testing.assert_allclose(metrics["gradient_norm"], expected["gradient_norm"], rtol=1e-5)
    assert_close(gradients_in(expected_state), gradients_in(state), 1e-5)


def test_the_sft_loss_is_the_mean_over_answer_tokens(config, base, role, plain_sft):
    batch = make_batch(LENGTHS, 14)
    hidden = np.asarray(run(config, base, role["lora"], batch).hidden, np.float64)
    raw = hidden @ np.asarray(base["language"]["head"]["kernel"], np.float64)
    log_p = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
    losses = [
        -log_p[row, place - 1, batch.tokens[row, place]] for row, place in np.argwhere(np.asarray(batch.loss_mask))
    ]
    np.testing.assert_allclose(plain_sft[1]["loss"], np.mean(losses), rtol=1e-5)
    assert float(plain_sft[1]["tokens"]) == len(losses)


def test_overlay_replaces_leaves_and_keeps_the_rest():
    base = {"a": {"x": 1, "y": 2}, "b": 3}
    assert overlay(base, {"a": {"y": 5}}) == {"a": {"x": 1, "y": 5}, "b": 3}
    assert base == {"a": {"x": 1, "y": 2}, "b": 3}
    assert overlay({"b": 3}, {"a": {"x": {"z": 1}}}) == {"a": {"x": {"z": 1}}, "b": 3}


def test_full_training_needs_no_base_beneath_what_is_trained(config, base):
    step, batch = jax.jit(functools.partial(sft_step, config, SftSettings(OPTIM))), make_batch(LENGTHS, 14)
    trained = {part: base[part] for part in ("projector", "language")}
    state = start(OPTIM, {"base": trained})
    found, expected = (step(beneath, state, batch) for beneath in ({"vision": base["vision"]}, base))
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_full_training_moves_projector_and_language_alone(config, base):
    before = jax.tree.map(np.array, base)
    trained = {part: jax.tree.map(jnp.copy, base[part]) for part in ("projector", "language")}
    step = jax.jit(functools.partial(sft_step, config, SftSettings(OPTIM)))
    state, _ = step(base, start(OPTIM, {"base": trained}), make_batch(LENGTHS, 14))
    moved = jax.tree.map(lambda a, b: bool((a != b).any()), state.params["base"], trained)
    assert all(jax.tree.leaves(moved))
    jax.tree.map(np.testing.assert_array_equal, before, base)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_full_training_of_half_precision_weights_keeps_float32_masters(config, base, dtype):
    """A rate that bf16 weights would not notice moves them, and the second step compiles nothing."""
    half = jax.tree.map(lambda x: x.astype(dtype), base)
    trained = {part: half[part] for part in ("projector", "language")}
    optim = Optim(2e-5, schedule="constant")
    state = start(optim, {"base": trained})
    step = jit_step(sft_step, make_mesh(), config, SftSettings(optim), state=state)
    with jax.set_mesh(make_mesh()):
        state = place(make_mesh(), state)
        for seed in range(3):
            state, metrics = step(half, state, make_batch(LENGTHS, 14, seed=seed))
    assert step._cache_size() == 1
    assert np.isfinite(metrics["loss"])
    assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {jnp.dtype("float32")}
    moved = jax.tree.map(lambda a, b: bool((a != b.astype(jnp.float32)).mean() > 0.5), state.params["base"], trained)
    assert moved["language"]["head"]["kernel"]


def test_sft_steps_donate_their_state_keep_the_base_and_learn(base, role, sft):
    before, state = jax.tree.map(np.array, base), sft_state(role)
    # Of 23 batches the last twenty are one batch, to be overfitted.
    losses, compiled = [], sft._cache_size()
    for seed in (1, 2, 3, *[0] * 20):
        given = state
        state, metrics = sft(base, state, make_batch(LENGTHS, 14, seed=seed))
        losses.append(float(metrics["loss"]))
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert sft._cache_size() == max(1, compiled)
    assert int(state.step) == 23
    jax.tree.map(np.testing.assert_array_equal, before, base)
    assert losses[-1] < 0.6 * losses[3]


def test_reward_microbatches_give_the_mean_of_their_parts(config, base, role):
    """Each part has its own centring; whole pairs stay together."""
    pairs = make_pairs((12, 7, 9, 14), 14)
    parts = [
        PreferenceBatch(jax.tree.map(lambda x, rows=rows: x[jnp.array(rows)], pairs.batch), pairs.choice[half::2])
        for half, rows in enumerate(([0, 2, 4, 6], [1, 3, 5, 7]))
    ]
    step = jax.jit(reward_step, static_argnums=(0, 1))
    alone = [step(config, REWARD, base, reward_state(role), part) for part in parts]
    state, metrics = step(config, dataclasses.replace(REWARD, microbatches=2), base, reward_state(role), pairs)
    for name in ("loss", "margin", "mean_score", "accuracy"):
        np.testing.assert_allclose(metrics[name], np.mean([m[name] for _, m in alone]), rtol=1e-5, atol=1e-6)
    first, second = (gradients_in(state) for state, _ in alone)
    assert_close(jax.tree.map(lambda a, b: (a + b) / 2, first, second), gradients_in(state), 1e-5)


@pytest.fixture(scope="module")
def plain_reward(base, reward):
    return reward(base, reward_state(role_weights()), make_pairs((12, 7), 14))


@pytest.mark.parametrize("side", ["right", "left"])
def test_padding_never_changes_the_reward_loss(base, role, reward, plain_reward, side):
    pairs = make_pairs((12, 7), 14)
    # Pairs cannot be masked, so the extra row that ``widened`` makes goes again.
    batch = jax.tree.map(lambda leaf: leaf[:-1], widened(pairs.batch, 4, side))
    state, metrics = reward(base, reward_state(role), PreferenceBatch(batch, pairs.choice))
    expected_state, expected = plain_reward
    for name in ("loss", "margin", "mean_score"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, atol=1e-6)
    assert_close(gradients_in(expected_state), gradients_in(state), 1e-5)


def test_the_reward_loss_by_hand(config, base, role, plain_reward):
    pairs = make_pairs((12, 7), 14)
    values = np.asarray(score(config, base, role, pairs.batch), np.float64)
    first, second = values[:2], values[2:]
    sign = np.where(np.asarray(pairs.choice) == 1, 1, -1)
    metrics = plain_reward[1]
    np.testing.assert_allclose(metrics["loss"], np.logaddexp(0, -sign * (second - first)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["margin"], (sign * (second - first)).mean(), rtol=1e-5)
    np.testing.assert_allclose(metrics["mean_score"], values.mean(), rtol=1e-5)
    assert float(metrics["accuracy"]) == np.mean((second - first >= 0) == (sign == 1))


def test_centring_pulls_the_scores_to_zero(plain_reward):
    # The bias shifts both scores alike: Bradley-Terry gives it no gradient, |mean(r0 + r1)| one of +-2.
    state, metrics = plain_reward
    expected = REWARD.centring * 2 * np.sign(float(metrics["mean_score"]))
    np.testing.assert_allclose(gradients_in(state)["head"]["bias"], expected, rtol=1e-5)


@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_are_read_at_the_last_real_token(config, base, role, side):
    lengths = (12, 6, 9)
    batch = widened(make_batch(lengths, 14, side), 2, "right")
    found = score(config, base, role, batch)
    hidden = run(config, base, role["lora"], batch).hidden
    for row, length in enumerate(lengths):
        last = length - 1 if side == "right" else 13
        assert int(last_real(batch)[row]) == last
        expected = scores(role["head"], hidden[row : row + 1, last])
        np.testing.assert_allclose(found[row], expected[0], rtol=1e-6)


def test_reward_steps_donate_their_state_keep_the_base_and_learn(base, role, reward):
    before, state = jax.tree.map(np.array, base), reward_state(role)
    history, compiled = [], reward._cache_size()
    for seed in (1, 2, *[0] * 20):
        given = state
        state, metrics = reward(base, state, make_pairs((12, 7), 14, seed=seed))
        history.append({name: float(value) for name, value in metrics.items()})
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    assert reward._cache_size() == max(1, compiled)
    jax.tree.map(np.testing.assert_array_equal, before, base)
    assert history[-1]["loss"] < 0.3 * history[2]["loss"]
    assert history[-1]["accuracy"] == 1.0
    assert history[-1]["margin"] > history[2]["margin"]
