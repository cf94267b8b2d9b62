"""A step of PPO with its stops on the host: as wide as the answers, and the same as at their limit."""

import dataclasses

import jax
import numpy as np
import pytest
from small_models import assert_close, gradients_in, make_prompts, role_weights

from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.conversation import TEMPLATES, Turn
from vlm_jax.data.sources import Prompt
from vlm_jax.files import read_json_lines
from vlm_jax.generate.sampling import Sampling
from vlm_jax.parallel.compile import place, place_batch
from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.runs import rollouts
from vlm_jax.train.optim import Optim, start
from vlm_jax.train.ppo import PpoSettings

LIMIT, PROMPT, ROWS = 128, 10, 8
SETTINGS = PpoSettings(
    Optim(1e-2, schedule="constant", clip_norm=1e9),
    sampling=Sampling(max_new_tokens=LIMIT),
    epochs=1,
    minibatches=1,
)


class Numbers:
    """A tokenizer whose text is its ids."""

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return [" ".join(str(token) for token in row if token) for row in rows.tolist()]


@pytest.fixture
def stepped(config, base, tmp_path, monkeypatch):
    """``(settings) -> (state, metrics, log, columns of answers that were measured)`` of one step."""
    # Half of all ids end an answer, so that none comes near the limit.
    config = dataclasses.replace(config, end_token_ids=tuple(range(4, 36)))
    mesh, widths, measure = make_mesh(), [], rollouts.measure
    records = [Prompt(id=str(i), image=None, turns=(Turn("human", f"question {i}"),)) for i in range(ROWS)]
    model = Model(config, place(mesh, base), Numbers(), TEMPLATES["plain"], mesh)
    frozen = {"reference": {"lora": role_weights(seed=1)["lora"]}, "reward": role_weights(seed=3)}

    def seen(*arguments):
        widths.append(arguments[-2].mask.shape[1])
        return measure(*arguments)

    monkeypatch.setattr(rollouts, "measure", seen)

    def run(settings):
        params = {"policy": {"lora": role_weights(seed=1)["lora"]}, "value": role_weights(seed=2)}
        state = place(mesh, start(settings.optim, params))
        batch = place_batch(mesh, make_prompts(range(3, 3 + ROWS), PROMPT))
        folder = tmp_path / f"answers-{len(widths)}"
        with jax.set_mesh(mesh):
            step = rollouts.rollout_and_update(model, settings, frozen, state, records, folder, seed=5)
            state, metrics = step(state, batch)
        return state, metrics, list(read_json_lines(folder / "00000.jsonl")), widths[-1]

    return run


def test_a_step_as_wide_as_the_answers_is_that_at_their_limit(stepped, monkeypatch):
    state, metrics, log, width = stepped(SETTINGS)
    assert width == 64
    monkeypatch.setattr(rollouts, "as_wide_as_needed", lambda settings, answer: answer)
    wide_state, wide_metrics, wide_log, wide = stepped(SETTINGS)
    assert wide == LIMIT
    assert [row["answer"] for row in log] == [row["answer"] for row in wide_log]
    assert len({row["answer"] for row in log}) > 1
    np.testing.assert_allclose([row["score"] for row in log], [row["score"] for row in wide_log], rtol=1e-5, atol=1e-5)
    for name, value in wide_metrics.items():
        np.testing.assert_allclose(metrics[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert_close(gradients_in(state), gradients_in(wide_state), 1e-5)


def test_padding_that_counts_is_measured_up_to_the_limit(stepped):
    assert stepped(dataclasses.replace(SETTINGS, pads="counted"))[-1] == LIMIT
