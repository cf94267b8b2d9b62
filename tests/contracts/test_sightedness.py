"""All four roles look at the image, and a rollout's log-probabilities are the update's and the sampler's.

On the tiny model with adapters of visible size, over prompts of the drawn world; one prompt of four is text alone.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from golden_losses import write_golden_world
from small_models import role_weights

from vlm_jax.arrays import PromptBatch
from vlm_jax.checkpoints.opening import open_model, open_policy
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.data.pipelines import prompt_batches
from vlm_jax.data.sources import read_captions, read_prompts
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.adapters import verdict_head
from vlm_jax.train.optim import Optim
from vlm_jax.train.ppo import PpoSettings, answer_log_probs, answer_values, join_answer, reward_batch, rollout
from vlm_jax.train.reward import reward_scores

ROWS = 8
# Another temperature than 1, so that no part can forget it.
SETTINGS = PpoSettings(Optim(1e-3), sampling=Sampling(max_new_tokens=24, temperature=0.7), microbatches=2)
KEY = jax.random.key(5)
# Float32 sums in another order. Found: root mean square 2e-6, largest 1.4e-5. (At temperature 1 the sampler's are up to
# 5e-5 away, for its distribution lacks the image token.)
ROOT_MEAN_SQUARE, LARGEST = 1e-5, 1e-4

log_probs_of = jax.jit(answer_log_probs, static_argnums=(0, 1))
values_of = jax.jit(answer_values, static_argnums=(0, 1))
scores_of = jax.jit(reward_scores, static_argnums=0)


@pytest.fixture(scope="module")
def model():
    return open_model("tiny")


@pytest.fixture(scope="module")
def roles(model):
    """The reference is the bare model, the reward head its own leaning; what is trained is random and not zero."""

    def lora(seed):
        return role_weights(model.config, seed, std=0.03)["lora"]

    words = (model.tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in ("Yes", "No"))
    return {
        "policy": {"lora": lora(1)},
        "reference": {"lora": open_policy(model, None)},
        "reward": {"lora": lora(2), "head": verdict_head(model.base, *words)},
        "value": {"lora": lora(3), "head": role_weights(model.config, 4)["head"]},
    }


@pytest.fixture(scope="module")
def prompts(model, tmp_path_factory) -> PromptBatch:
    world = tmp_path_factory.mktemp("seen")
    write_golden_world(world)
    facts = read_captions(world / "image_to_caption.json")
    records = read_prompts(world / "prompts.json", world / "images", facts)[:ROWS]
    records = [_without_image(one) if row % 4 == 3 else one for row, one in enumerate(records)]
    words = (model.tokenizer, model.config, model.template)
    batch = next(iter(prompt_batches(records, *words, ROWS, 40, 152, SHORT, 0)))
    return jax.tree.map(jnp.asarray, batch)


def _without_image(record):
    turns = tuple(dataclasses.replace(turn, text=turn.text.replace("<image>\n", "")) for turn in record.turns)
    return dataclasses.replace(record, image=None, turns=turns)


@pytest.fixture(scope="module")
def answer(model, roles, prompts):
    draw = jax.jit(lambda base, lora, batch, key: generate(model.config, base, lora, batch, key, SETTINGS.sampling))
    return draw(model.base, roles["policy"]["lora"], prompts.prompt, KEY)


def with_images(prompts: PromptBatch, images) -> PromptBatch:
    """The same texts about other images; the reward model has no view of its own."""
    assert prompts.reward_images is None
    return prompts.replace(prompt=prompts.prompt.replace(images=images))


def figures(role, model, roles, prompts, answer):
    """What a role makes of the answers: a figure a token, or one a row."""
    config, base, weights = model.config, model.base, roles[role]
    sequences = join_answer(prompts.prompt, answer)
    if role == "reward":
        return np.asarray(scores_of(config, base, weights, reward_batch(answer, prompts)))[:, None]
    if role == "value":
        return np.asarray(values_of(config, SETTINGS, base, weights, sequences, answer.mask))
    return np.asarray(log_probs_of(config, SETTINGS, base, weights["lora"], sequences, answer.mask)[0])


@pytest.mark.parametrize("role", ["policy", "reference", "reward", "value"])
def test_another_image_changes_what_a_role_says(role, model, roles, prompts, answer):
    sighted = np.asarray(prompts.prompt.image_mask).any(1)
    assert sighted.sum() == 6
    # Every row gets its neighbour's, those of text alone as well.
    others = np.roll(np.asarray(prompts.prompt.images), 1, 0)
    before = figures(role, model, roles, prompts, answer)
    again = figures(role, model, roles, with_images(prompts, jnp.asarray(np.asarray(prompts.prompt.images))), answer)
    np.testing.assert_array_equal(again, before)
    after = figures(role, model, roles, with_images(prompts, jnp.asarray(others)), answer)
    changes = np.abs(after - before).max(1)
    # Rounding moves nothing by more than 1e-5.
    assert (changes[sighted] > 1e-2).all(), changes
    np.testing.assert_array_equal(changes[~sighted], 0)


def test_rollout_update_and_sampler_agree_on_log_probabilities(model, roles, prompts, answer):
    params = {"policy": roles["policy"], "value": roles["value"]}
    frozen = {"reference": roles["reference"], "reward": roles["reward"]}
    measure = jax.jit(rollout, static_argnums=(0, 1))
    measured = measure(model.config, SETTINGS, model.base, params, frozen, prompts, KEY)
    np.testing.assert_array_equal(measured.answers, answer.tokens)
    mask = np.asarray(measured.mask)
    np.testing.assert_array_equal(measured.sampler_log_probs, answer.log_probs)
    assert mask.sum() > 50
    assert not mask.all()
    lora = roles["policy"]["lora"]
    updated, _ = log_probs_of(model.config, SETTINGS, model.base, lora, measured.sequences, measured.mask)
    for name, other in (("update", updated), ("sampler", measured.sampler_log_probs)):
        gap = np.abs(np.asarray(other) - np.asarray(measured.log_probs))
        assert not gap[~mask].any()
        assert np.sqrt(np.square(gap[mask]).mean()) <= ROOT_MEAN_SQUARE, name
        assert gap.max() <= LARGEST, (name, gap.max())
    # Log-probabilities of another policy would not pass.
    assert np.abs(np.asarray(measured.reference_log_probs - measured.log_probs))[mask].max() > 1e-2
