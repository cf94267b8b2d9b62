"""PPO: the rollout's figures, the update against the released code's formulas in NumPy, and that it learns."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import assert_close, gradients_in, make_batch, make_prompts, role_weights, widened

from vlm_jax.arrays import Batch, Generation
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.llava import forward
from vlm_jax.parallel.compile import jit_step, place
from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.train.optim import Optim, start
from vlm_jax.train.ppo import (
    PpoSettings,
    Rollout,
    answer_log_probs,
    answer_values,
    join_answer,
    ppo_update,
    rollout,
    sample_answers,
    token_rewards,
)
from vlm_jax.train.reward import reward_scores
from vlm_jax.train.reward_terms import RewardTerms

ROWS, LIMIT, PROMPT = 8, 6, 10
LENGTHS = (10, 6, 8, 9, 7, 10, 6, 9)
KEY = jax.random.key(3)
# For the loop: rewards are given by the tests.
LEARN = PpoSettings(
    Optim(1e-2, schedule="constant"),
    sampling=Sampling(max_new_tokens=LIMIT),
    terms=RewardTerms(stop_penalty=0.0, length_coefficient=0.0, correct_bonus=1.0),
    kl_coefficient=0.01,
    reward_scale=1.0,
)
# For the formulas: the released code's figures, one minibatch, no clipping of gradients.
RELEASED = PpoSettings(
    Optim(1e-2, schedule="constant", clip_norm=1e9),
    sampling=Sampling(max_new_tokens=LIMIT),
    kl_estimator="k1_clamped",
    epochs=1,
    minibatches=1,
    pads="counted",
)
MASKED = dataclasses.replace(RELEASED, pads="masked", kl_estimator="k1", gamma=0.95, lam=0.9)

sample = jax.jit(rollout, static_argnums=(0, 1))
update = jax.jit(ppo_update, static_argnums=(0, 1))
score = jax.jit(reward_scores, static_argnums=0)
run = jax.jit(forward, static_argnums=0)
values_of = jax.jit(answer_values, static_argnums=(0, 1))
log_probs_of = jax.jit(answer_log_probs, static_argnums=(0, 1))


def make_params():
    """Trained roles whose value head predicts something."""
    return {"policy": {"lora": role_weights(seed=1)["lora"]}, "value": role_weights(seed=2)}


def make_frozen():
    """The reference is the policy's start."""
    return {"reference": {"lora": role_weights(seed=1)["lora"]}, "reward": role_weights(seed=3)}


@pytest.fixture(scope="module")
def prompts():
    return make_prompts(LENGTHS * 8, PROMPT)


@pytest.fixture(scope="module")
def config(config):
    """Some id ends answers often enough to make them ragged."""
    return dataclasses.replace(config, eos_token_id=6)


@pytest.fixture(scope="module")
def measured(config, base, prompts):
    found = sample(config, LEARN, base, make_params(), make_frozen(), prompts, KEY)
    np.testing.assert_array_equal(found.answers, found.sequences.tokens[:, PROMPT:])
    return found


def test_answers_are_ragged(measured):
    assert len(set(np.asarray(measured.lengths).tolist())) > 2
    assert 0 < np.asarray(measured.ended).sum() < len(measured.ended)


def test_measuring_in_parts_gives_the_same_figures(config, base, prompts, measured):
    split = dataclasses.replace(LEARN, microbatches=4)
    found = sample(config, split, base, make_params(), make_frozen(), prompts, KEY)
    jax.tree.map(lambda whole, parts: np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5), measured, found)


@pytest.mark.parametrize("parts", [2, 8])
def test_sampling_in_parts_draws_the_same_answers(config, base, prompts, measured, parts):
    split = dataclasses.replace(LEARN, rollout_parts=parts)
    found = sample(config, split, base, make_params(), make_frozen(), prompts, KEY)
    np.testing.assert_array_equal(found.answers, measured.answers)
    jax.tree.map(lambda whole, parts: np.testing.assert_allclose(parts, whole, rtol=1e-5, atol=1e-5), measured, found)


def test_sampling_takes_the_memory_of_one_part(config, base):
    """Caches, masks and scores of 64 rows against those of 8."""
    prompts = make_prompts(LENGTHS * 8, 64).prompt

    def temporaries(parts):
        settings = dataclasses.replace(LEARN, rollout_parts=parts)
        made = jax.jit(sample_answers, static_argnums=(0, 1))
        lowered = made.lower(config, settings, base, make_params(), prompts, KEY)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    assert temporaries(8) < temporaries(1) / 4


def test_microbatches_give_the_same_update(config, base):
    old, *_ = near_the_policy(config, MASKED, base, make_params())
    whole, parts = (
        update(config, settings, base, first_state(), old, jnp.asarray(CORRECT), KEY)[0]
        for settings in (MASKED, dataclasses.replace(MASKED, microbatches=2))
    )
    assert_close(gradients_in(whole), gradients_in(parts), 1e-5)


def test_policy_and_reference_agree_at_the_start(measured):
    np.testing.assert_array_equal(measured.log_probs, measured.reference_log_probs)
    assert (np.asarray(measured.log_probs)[measured.mask] < 0).all()
    assert not np.asarray(measured.log_probs)[~measured.mask].any()
    assert not np.asarray(measured.values)[~measured.mask].any()
    assert np.asarray(measured.values)[measured.mask].all()


def test_figures_belong_to_the_state_before_each_token(config, base, measured):
    params, sequences = make_params(), measured.sequences
    hidden = {name: run(config, base, role["lora"], sequences).hidden for name, role in params.items()}
    before = {name: np.asarray(states, np.float64)[:, PROMPT - 1 : -1] for name, states in hidden.items()}
    raw = before["policy"] @ np.asarray(base["language"]["head"]["kernel"], np.float64)
    log_p = raw - np.log(np.exp(raw).sum(-1, keepdims=True))
    chosen = np.take_along_axis(log_p, np.asarray(sequences.tokens)[:, PROMPT:, None], -1)[..., 0]
    mask, head = np.asarray(measured.mask), params["value"]["head"]
    np.testing.assert_allclose(measured.log_probs, np.where(mask, chosen, 0), atol=1e-4)
    values = before["value"] @ np.asarray(head["kernel"], np.float64) + float(head["bias"])
    np.testing.assert_allclose(measured.values, np.where(mask, values, 0), atol=1e-4)


def test_sequences_are_prompt_and_answer(config, measured, prompts):
    sequences = measured.sequences
    np.testing.assert_array_equal(sequences.tokens[:, :PROMPT], prompts.prompt.tokens)
    np.testing.assert_array_equal(sequences.attention_mask[:, PROMPT:], measured.mask)
    np.testing.assert_array_equal(sequences.image_mask[:, :PROMPT], prompts.prompt.image_mask)
    assert not sequences.image_mask[:, PROMPT:].any()
    ends = np.asarray(sequences.tokens[:, PROMPT:] == config.eos_token_id)
    np.testing.assert_array_equal(ends.any(1), measured.ended)


def test_the_reward_model_reads_prompt_answer_and_turn_without_gaps(config, base, measured, prompts):
    rows, width = len(measured.lengths), PROMPT + LIMIT + prompts.suffix_mask.shape[1]
    tokens, real, image = (
        np.zeros((rows, width), np.int32),
        np.zeros((rows, width), bool),
        np.zeros((rows, width), bool),
    )
    for row in range(rows):
        begin, length = PROMPT - LENGTHS[row % ROWS], int(measured.lengths[row])
        parts = [
            prompts.prompt.tokens[row, begin:],
            measured.sequences.tokens[row, PROMPT : PROMPT + length],
            prompts.suffix_tokens[row, : int(prompts.suffix_mask[row].sum())],
        ]
        whole = np.concatenate(parts)
        tokens[row, : len(whole)], real[row, : len(whole)] = whole, True
        image[row, : PROMPT - begin] = prompts.prompt.image_mask[row, begin:]
    nothing = jnp.zeros((rows, width), bool)
    packed = Batch(jnp.asarray(tokens), jnp.asarray(real), jnp.asarray(image), nothing, prompts.prompt.images)
    expected = score(config, base, make_frozen()["reward"], packed)
    np.testing.assert_allclose(measured.scores, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("pads", ["masked", "counted"])
def test_a_zero_value_head_predicts_nothing(config, base, measured, pads):
    role = role_weights(seed=2)
    settings = dataclasses.replace(LEARN, pads=pads)
    zero = {"lora": role["lora"], "head": jax.tree.map(jnp.zeros_like, role["head"])}
    assert not values_of(config, settings, base, zero, measured.sequences, measured.mask).any()
    values = np.asarray(values_of(config, settings, base, role, measured.sequences, measured.mask))
    # Padding has a value only where it counts.
    assert bool(values[~measured.mask].any()) == (pads == "counted")


def synthetic(seed=0, dtype=np.float32) -> Rollout:
    """A rollout with every kind of row, measured by nobody."""
    rng = np.random.default_rng(seed)
    answers = np.array([2, 6, 1, 4, 6, 3, 5, 6])
    mask = np.arange(LIMIT) < answers[:, None]
    prompts = make_batch(LENGTHS, PROMPT, "left", seed)
    tokens = np.where(mask, rng.integers(4, 64, mask.shape), 0).astype(np.int32)
    nothing = np.zeros_like(mask)
    sequences = prompts.replace(
        tokens=jnp.concatenate([prompts.tokens, tokens], 1),
        attention_mask=jnp.concatenate([prompts.attention_mask, mask], 1),
        image_mask=jnp.concatenate([prompts.image_mask, nothing], 1),
        loss_mask=jnp.concatenate([jnp.zeros_like(prompts.loss_mask), mask], 1),
    )
    draw = lambda *shape: jnp.asarray(rng.standard_normal(shape), dtype)  # noqa: E731
    return Rollout(
        sequences=sequences,
        mask=jnp.asarray(mask),
        log_probs=jnp.where(mask, -3 + draw(ROWS, LIMIT), 0),
        sampler_log_probs=jnp.where(mask, -3 + draw(ROWS, LIMIT), 0),
        reference_log_probs=jnp.where(mask, -3 + draw(ROWS, LIMIT), 0),
        values=draw(ROWS, LIMIT),
        scores=draw(ROWS),
        ended=jnp.asarray([True, False, True, True, True, True, True, False]),
        lengths=jnp.asarray(answers, jnp.int32),
        length_bonus=draw(ROWS),
    )


CORRECT = np.array([0, 1, -0.5, 0.5, 0, 1, 0, 0], np.float32)


def near_the_policy(config, settings, base, params) -> tuple[Rollout, np.ndarray, np.ndarray]:
    """A synthetic rollout whose old figures lie about as far from the present ones as an epoch moves them."""
    rng, old = np.random.default_rng(7), synthetic()
    arguments = (old.sequences, old.mask)
    log_probs, _ = log_probs_of(config, RELEASED, base, params["policy"]["lora"], *arguments)
    values = values_of(config, RELEASED, base, params["value"], *arguments)
    values = values if settings.pads == "counted" else jnp.where(old.mask, values, 0)

    def moved(present):
        shifted = present + 0.3 * rng.standard_normal(present.shape).astype(np.float32)
        return jnp.where(old.mask | (settings.pads == "counted"), shifted, 0)

    old = old.replace(log_probs=jnp.where(old.mask, moved(log_probs), 0), values=moved(values))
    return old, np.asarray(log_probs, np.float64), np.asarray(values, np.float64)


def by_hand(settings, old, log_probs, values, correct):
    """The losses of the first minibatch as facts and papers write them, float64."""
    mask, lengths = np.asarray(old.mask), np.asarray(old.lengths)
    counted = np.ones_like(mask) if settings.pads == "counted" else mask
    old_log_probs, reference, old_values, scores, bonus = (
        np.asarray(x, np.float64)
        for x in (old.log_probs, old.reference_log_probs, old.values, old.scores, old.length_bonus)
    )
    k1 = old_log_probs - reference
    kl = np.maximum(0, k1) if settings.kl_estimator == "k1_clamped" else k1
    reward = scores - 8 * ~np.asarray(old.ended) - 10 * bonus * lengths / LIMIT + 2 * correct
    rewards = -0.1 * kl
    rewards[np.arange(ROWS), np.full(ROWS, LIMIT - 1) if settings.pads == "counted" else lengths - 1] += reward
    rewards *= 10
    advantages, following, carried = np.zeros_like(rewards), np.zeros(ROWS), np.zeros(ROWS)
    for slot in reversed(range(LIMIT)):
        error = rewards[:, slot] + settings.gamma * following - old_values[:, slot]
        carried = error + settings.gamma * settings.lam * carried
        advantages[:, slot], following = carried, old_values[:, slot]
    returns = advantages + old_values
    if settings.pads == "counted":
        np.testing.assert_allclose(returns, np.cumsum(rewards[:, ::-1], 1)[:, ::-1], atol=1e-9)
    chosen = advantages[counted]
    whitened = (advantages - chosen.mean()) / np.sqrt(chosen.var() + 1e-8)
    ratio = np.exp(log_probs - old_log_probs)
    policy = np.maximum(-whitened * ratio, -whitened * np.clip(ratio, 0.8, 1.2))
    near = np.clip(values, old_values - 0.2, old_values + 0.2)
    value = 0.5 * np.maximum((values - returns) ** 2, (near - returns) ** 2)
    return {
        "policy_loss": policy[counted].mean(),
        "value_loss": value[counted].mean(),
        "reward": reward.mean(),
        "score": scores.mean(),
        "ratio": ratio[mask].mean(),
        "clip_fraction": (np.abs(ratio - 1) > 0.2)[mask].mean(),
        "approximate_kl": (0.5 * (log_probs - old_log_probs) ** 2)[mask].mean(),
        "kl": (k1 * mask).sum(1).mean(),
        "kl_k3": ((np.exp(-k1) - 1 + k1) * mask).sum(1).mean(),
        "length": lengths.mean(),
        "ended": np.mean(old.ended),
        "explained_variance": 1 - ((returns - old_values)[mask] ** 2).mean() / returns[mask].var(),
    }


def first_state():
    return start(RELEASED.optim, make_params())


@pytest.mark.parametrize("microbatches", [1, 4])
@pytest.mark.parametrize("settings", [RELEASED, MASKED], ids=["counted", "masked"])
def test_the_update_by_hand(config, base, settings, microbatches):
    settings = dataclasses.replace(settings, microbatches=microbatches)
    old, log_probs, values = near_the_policy(config, settings, base, make_params())
    _, metrics = update(config, settings, base, first_state(), old, jnp.asarray(CORRECT), KEY)
    expected = by_hand(settings, old, log_probs, values, CORRECT)
    assert 0 < expected["clip_fraction"] < 1
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=2e-4, atol=1e-5, err_msg=name)


def test_padding_never_changes_the_masked_update(config, base):
    old, _, _ = near_the_policy(config, MASKED, base, make_params())
    state, expected = update(config, MASKED, base, first_state(), old, jnp.asarray(CORRECT), KEY)
    # More padding on both sides and a row of nothing but padding. The reward's length term counts against the limit,
    # which more slots leave as it was.
    longer = widened(widened(old.sequences, 3, "left"), 2, "right", seed=11)
    longer = jax.tree.map(lambda leaf: leaf[:-1], longer)
    slots = lambda x: jnp.pad(x, ((0, 1), (0, 2)))  # noqa: E731
    rows = lambda x: jnp.pad(x, (0, 1), constant_values=1)  # noqa: E731
    padded = Rollout(
        sequences=longer,
        mask=slots(old.mask),
        log_probs=slots(old.log_probs),
        sampler_log_probs=slots(old.sampler_log_probs),
        reference_log_probs=slots(old.reference_log_probs),
        values=slots(old.values),
        scores=rows(old.scores),
        ended=rows(old.ended),
        lengths=rows(old.lengths).at[-1].set(0),
        length_bonus=rows(old.length_bonus),
    )
    found, metrics = update(config, MASKED, base, first_state(), padded, jnp.asarray([*CORRECT, 1.0]), KEY)
    for name in ("policy_loss", "value_loss", "ratio", "approximate_kl", "entropy", "explained_variance"):
        np.testing.assert_allclose(metrics[name], expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    assert_close(gradients_in(state), gradients_in(found), 1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("pads", ["masked", "counted"])
def test_a_reward_of_seven_tenths_reaches_its_slot_whole(pads, dtype):
    old = synthetic(dtype=dtype)
    settings = dataclasses.replace(RELEASED, pads=pads, reward_scale=1.0)
    old = old.replace(reference_log_probs=old.log_probs)
    rewards = jnp.full(ROWS, 0.7, dtype)
    found = np.asarray(token_rewards(settings, old, rewards))
    assert found.dtype == np.float32
    slots = np.full(ROWS, LIMIT - 1) if pads == "counted" else np.asarray(old.lengths) - 1
    expected = np.zeros((ROWS, LIMIT), np.float32)
    expected[np.arange(ROWS), slots] = np.float32(rewards[0])
    np.testing.assert_array_equal(found, expected)
    assert found.sum() == pytest.approx(0.7 * ROWS, rel=1 / 256)


def test_kl_is_charged_on_every_token():
    old = synthetic()
    settings = dataclasses.replace(MASKED, kl_coefficient=0.3, reward_scale=2.0)
    found = token_rewards(settings, old, jnp.zeros(ROWS))
    np.testing.assert_allclose(found, -0.6 * (old.log_probs - old.reference_log_probs), rtol=1e-6)


@pytest.fixture(scope="module")
def learned(config, base, prompts):
    """Fourteen rounds in which tokens of the upper half of the vocabulary are rewarded."""
    mesh, frozen = make_mesh(), make_frozen()
    state = place(mesh, start(LEARN.optim, make_params()))
    # Scores of 0: the rewards are those that the test gives.
    frozen["reward"] = jax.tree.map(jnp.zeros_like, frozen["reward"])
    before = jax.tree.map(np.array, (base, frozen))
    step = jit_step(ppo_update, mesh, config, LEARN, state=state)
    history = []
    for number in range(14):
        given, key = state, jax.random.fold_in(KEY, number)
        found = sample(config, LEARN, base, state.params, frozen, prompts, key)
        right = ((found.answers >= 32) & found.mask).sum(1) / found.lengths
        state, metrics = step(base, state, found, right.astype(jnp.float32), key)
        history.append({name: float(value) for name, value in metrics.items()})
        assert all(leaf.is_deleted() for leaf in jax.tree.leaves(given))
    jax.tree.map(np.testing.assert_array_equal, before, (base, frozen))
    return history, step, state


def test_the_first_minibatch_sees_ratio_one_and_the_first_rollout_no_kl(learned):
    history, _, _ = learned
    for metrics in history:
        assert metrics["first_ratio"] == pytest.approx(1, abs=1e-5)
        assert metrics["first_approximate_kl"] == pytest.approx(0, abs=1e-9)
        assert metrics["log_prob_gap"] == pytest.approx(0, abs=1e-5)
        # The sampler never draws the placeholder, which has about a sixtieth of this model's probability.
        assert 0 < metrics["sampler_gap"] < 0.1
    assert history[0]["kl"] == history[0]["kl_k3"] == 0
    assert history[-1]["kl"] > 0.1
    assert history[0]["score"] == history[-1]["score"] == 0


def test_rewarded_tokens_become_likely(learned):
    history, _, _ = learned
    assert np.mean([metrics["reward"] for metrics in history[:3]]) < 0.6
    assert np.mean([metrics["reward"] for metrics in history[-3:]]) > 0.7


def test_updates_compile_once_and_count_their_minibatches(learned):
    _, step, state = learned
    assert step._cache_size() == 1
    assert int(state.step) == 14 * LEARN.epochs * LEARN.minibatches


def test_join_answer_leaves_prompts_as_they_are(measured, prompts):
    answer = Generation(
        tokens=measured.sequences.tokens[:, PROMPT:],
        log_probs=measured.log_probs,
        mask=measured.mask,
        lengths=measured.lengths,
        ended=measured.ended,
        finite=jnp.ones_like(measured.ended),
    )
    joined = join_answer(prompts.prompt, answer)
    jax.tree.map(np.testing.assert_array_equal, joined, measured.sequences)
