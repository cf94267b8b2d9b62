"""Answers without the slots that none of them reaches: few widths, and the same figures and updates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_models import assert_close, gradients_in, make_prompts, role_weights

from vlm_jax.arrays import Generation
from vlm_jax.generate.sampling import Sampling
from vlm_jax.train.answer_width import cut, width_for
from vlm_jax.train.optim import Optim, start
from vlm_jax.train.ppo import PpoSettings, measure, ppo_update

LIMIT, WIDTH = 128, 64
LENGTHS = (5, 64, 17, 30)
SETTINGS = PpoSettings(
    Optim(1e-2, schedule="constant", clip_norm=1e9),
    sampling=Sampling(max_new_tokens=LIMIT),
    kl_coefficient=0.3,
    epochs=1,
    minibatches=1,
)


@pytest.mark.parametrize("limit", [1, 24, 56, 64, 65, 128, 256, 300, 896, 1024])
def test_few_widths_that_hold_every_answer(limit):
    widths = [width_for(longest, limit) for longest in range(1, limit + 1)]
    assert all(longest <= width <= limit for longest, width in enumerate(widths, 1))
    assert widths == sorted(widths)
    assert len(set(widths)) <= 4
    assert all(width % 64 == 0 or width == limit for width in widths)


def test_the_released_limit():
    assert [width_for(longest, 896) for longest in (1, 256, 257, 700, 896)] == [256, 256, 512, 768, 896]


def answers(config) -> Generation:
    rng, lengths = np.random.default_rng(0), np.array(LENGTHS, np.int32)
    mask = np.arange(LIMIT) < lengths[:, None]
    tokens = np.where(mask, rng.integers(4, config.language.vocab_size, mask.shape), config.pad_token_id)
    return Generation(
        tokens=jnp.asarray(tokens, jnp.int32),
        log_probs=jnp.asarray(np.where(mask, rng.uniform(-5, -1, mask.shape), 0), jnp.float32),
        mask=jnp.asarray(mask),
        lengths=jnp.asarray(lengths),
        ended=jnp.asarray([True, False, True, True]),
        finite=jnp.ones(len(lengths), bool),
    )


def test_the_same_figures_and_the_same_update(config, base):
    answer, prompts = answers(config), make_prompts((10, 6, 8, 9), 10)
    params = {"policy": {"lora": role_weights(seed=1)["lora"]}, "value": role_weights(seed=2)}
    frozen = {"reference": {"lora": role_weights(seed=4)["lora"]}, "reward": role_weights(seed=3)}
    judge = jax.jit(measure, static_argnums=(0, 1))
    update = jax.jit(ppo_update, static_argnums=(0, 1))
    correct, key = jnp.asarray([0.0, 1.0, 0.0, 0.5]), jax.random.key(0)
    wide, narrow = (judge(config, SETTINGS, base, params, frozen, one, prompts) for one in (answer, cut(answer, WIDTH)))
    assert narrow.answers.shape == (len(LENGTHS), WIDTH)
    for name in ("log_probs", "sampler_log_probs", "reference_log_probs", "values"):
        found, expected = getattr(narrow, name), np.asarray(getattr(wide, name))
        assert not expected[:, WIDTH:].any()
        np.testing.assert_allclose(found, expected[:, :WIDTH], rtol=1e-5, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(narrow.scores, wide.scores, rtol=1e-5, atol=1e-5)
    (state, metrics), (expected_state, expected) = (
        update(config, SETTINGS, base, start(SETTINGS.optim, params), one, correct, key) for one in (narrow, wide)
    )
    for name, value in expected.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert_close(gradients_in(state), gradients_in(expected_state), 1e-5)
