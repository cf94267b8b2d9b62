"""Measures on held-out rows against each row worked out by itself; the last batch is never full."""

import dataclasses

import jax
import numpy as np
import pytest
from small_models import SMALL, base_weights, role_weights
from test_loop import PLAIN, Letters, png, question

from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.conversation import Turn
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.data.pipelines import instruction_batches, preference_batches, prompt_batches
from vlm_jax.data.sources import Instruction, Preference, Prompt
from vlm_jax.generate.sampling import Sampling
from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.runs.held_out import conversation_loss, pair_measure, rollout_measure
from vlm_jax.train.optim import Optim
from vlm_jax.train.ppo import PpoSettings
from vlm_jax.train.reward import reward_scores
from vlm_jax.train.reward_terms import RewardTerms
from vlm_jax.train.sft import sft_loss

ROLE = role_weights()


class Spelling(Letters):
    def batch_decode(self, rows, skip_special_tokens):
        return ["".join(chr(65 + token % 26) for token in row) for row in rows]


@pytest.fixture(scope="module")
def model():
    return Model(SMALL, base_weights(), Spelling(), PLAIN, make_mesh())


def conversations(count):
    return [
        Instruction(id=str(i), image=png(i), turns=(question(i), Turn("gpt", "yes " * (i + 1)))) for i in range(count)
    ]


def test_the_loss_is_that_of_all_answer_tokens(model):
    records = conversations(5)

    def batches(records, size):
        return instruction_batches(records, Letters(), SMALL, PLAIN, size, 64, seed=3)

    found = conversation_loss(model, batches(records, 2), 5, 2)({"lora": ROLE["lora"]})
    one = jax.jit(lambda batch: sft_loss(SMALL, model.base, {"lora": ROLE["lora"]}, batch))
    losses, tokens = zip(*(map(float, one(next(iter(batches([record], 1))))) for record in records), strict=True)
    assert len(set(tokens)) == 5
    assert found["loss"] == pytest.approx(sum(losses) / sum(tokens), rel=1e-5)


def test_pairs_are_ranked_and_priced_one_by_one(model):
    records = [
        Preference(id="", image=png(i), turns=(question(i),), answers=("a" * (i + 1), "b" * (7 - i)), choice=i % 2)
        for i in range(5)
    ]

    def batches(records, size):
        return preference_batches(records, Letters(), SMALL, PLAIN, size, 128, SHORT, seed=3)

    found = pair_measure(model, batches(records, 2), 5)(ROLE)
    score = jax.jit(lambda batch: reward_scores(SMALL, model.base, ROLE, batch))
    scores = np.array([score(next(iter(batches([record], 1))).batch) for record in records], np.float64)
    better = np.array(
        [pair[record.choice] - pair[1 - record.choice] for record, pair in zip(records, scores, strict=True)]
    )
    assert found["accuracy"] == np.mean(better > 0)
    assert 0 < found["accuracy"] < 1
    assert found["loss"] == pytest.approx(np.mean(np.log1p(np.exp(-better))), rel=1e-4)


def test_answers_to_held_out_prompts(model):
    records = [Prompt(id=str(i), image=png(i), turns=(question(i),), facts=("a cat",)) for i in range(5)]
    terms = RewardTerms(stop_penalty=8.0, length_coefficient=0.0, correct_bonus=0.0)
    settings = PpoSettings(Optim(1e-2, steps=4), sampling=Sampling(max_new_tokens=3), terms=terms)
    frozen = {"reference": {"lora": ROLE["lora"]}, "reward": role_weights(seed=3)}
    batches = prompt_batches(records, Letters(), SMALL, PLAIN, 2, 48, 96, SHORT, seed=1)
    measure = rollout_measure(model, settings, frozen, records, batches, 2, seed=5)

    def params(seed):
        return {"policy": {"lora": role_weights(seed=seed)["lora"]}, "value": role_weights(seed=2)}

    same = measure(params(1))
    assert same["kl"] == pytest.approx(0, abs=1e-5), "the reference itself"
    assert 1 <= same["length"] <= 3
    assert same["reward"] == pytest.approx(same["score"] - 8 * (1 - same["ended"]), abs=1e-5)
    assert measure(params(1)) == same, "the same draws each time"
    other = measure(params(7))
    assert other["kl"] != pytest.approx(0, abs=1e-3)
    # Those of five rows, not of the sixth that fills the last batch.
    assert (5 * other["length"]) == pytest.approx(round(5 * other["length"]))
    whole = dataclasses.replace(settings, microbatches=1)
    assert rollout_measure(model, whole, frozen, records, batches, 2, seed=5)(params(7)) == other
