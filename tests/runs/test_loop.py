"""Runs that stop and go on: the same numbers bit for bit, no step twice, no other settings, no silent divergence."""

import dataclasses
import functools
import hashlib
import io
import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from small_models import role_weights

from vlm_jax.data.conversation import TEMPLATES, Turn
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.data.pipelines import instruction_batches, prompt_batches
from vlm_jax.data.sources import Instruction, Prompt
from vlm_jax.errors import DivergedError, InputError, TerminatedError
from vlm_jax.generate.sampling import Sampling
from vlm_jax.parallel.compile import jit_step, place
from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.randomness import key_for
from vlm_jax.runs.begin import Run
from vlm_jax.runs.log import read_metrics
from vlm_jax.runs.loop import Pace, train
from vlm_jax.train.optim import Optim, start
from vlm_jax.train.ppo import PpoSettings, ppo_update, rollout
from vlm_jax.train.sft import SftSettings, sft_step

SETTINGS = {"rate": 1e-2}
PLAIN = TEMPLATES["plain"]


class Letters:
    """A tokenizer of one id a character."""

    def tokenize(self, text):
        return list(text)

    def __call__(self, texts, **_):
        return {"input_ids": [[4 + ord(letter) % 60 for letter in text] for text in texts]}


def png(number):
    stream = io.BytesIO()
    Image.fromarray(np.full((32, 32, 3), 20 * number, np.uint8)).save(stream, "PNG")
    return stream.getvalue()


def question(number):
    return Turn("human", f"<image>\nhow many {'and' * (number % 3)}?")


def sft_run(config, base):
    """Batches, a maker of first states, and the step."""
    records = [
        Instruction(id=str(i), image=png(i), turns=(question(i), Turn("gpt", f"{i} or {i + 1}"))) for i in range(5)
    ]
    optim = Optim(1e-2, steps=4, warmup_steps=1)

    def first():
        return place(make_mesh(), start(optim, {"lora": role_weights()["lora"]}))

    step = jit_step(sft_step, make_mesh(), config, SftSettings(optim), state=first())
    batches = instruction_batches(records, Letters(), config, PLAIN, 2, 48, seed=1)
    return batches, first, lambda state, batch: step(base, state, batch)


def ppo_run(config, base):
    records = [
        Prompt(id=str(i), image=png(i), turns=(question(i),), facts=("a cat", "a dog", "a sun")) for i in range(5)
    ]
    settings = PpoSettings(Optim(1e-2, steps=16, warmup_steps=2), sampling=Sampling(max_new_tokens=3))
    frozen = {"reference": {"lora": role_weights(seed=1)["lora"]}, "reward": role_weights(seed=3)}

    def first():
        params = {"policy": {"lora": role_weights(seed=1)["lora"]}, "value": role_weights(seed=2)}
        return place(make_mesh(), start(settings.optim, params))

    sample = jax.jit(functools.partial(rollout, config, settings))
    update = jit_step(ppo_update, make_mesh(), config, settings, state=first())

    def step(state, batch):
        number = int(state.step) // 4
        measured = sample(base, state.params, frozen, batch, key_for(0, "rollout", number))
        correct = (measured.answers[:, 0] % 2).astype(jnp.float32)
        return update(base, state, measured, correct, key_for(0, "minibatches", number))

    return prompt_batches(records, Letters(), config, PLAIN, 2, 48, 96, SHORT, seed=1), first, step


def seeing(step, seen, stop_at=None):
    """The step, noting a digest of every batch; the call number ``stop_at`` is interrupted instead."""

    def watched(state, batch):
        if stop_at is not None and len(seen) == stop_at:
            raise KeyboardInterrupt
        leaves = jax.tree.leaves(batch)
        seen.append(hashlib.sha256(b"".join(np.asarray(leaf).tobytes() for leaf in leaves)).hexdigest())
        return step(state, batch)

    return watched


def go(folder, parts, watched, steps=4, settings=SETTINGS, milestones=None, **options):
    batches, first, _ = parts
    options = {"save_every": 2, "log_every": 1, **options}
    run = Run(folder / "result", folder / "run.json", settings)
    return train(run, Pace("test", steps, **options), make_mesh(), first(), watched, batches, milestones)


def go_with(folder, parts, milestones, **options):
    return go(folder, parts, parts[2], milestones=milestones, **options)


@pytest.fixture(scope="module")
def sft_parts(config, base):
    return sft_run(config, base)


@pytest.fixture(scope="module")
def ppo_parts(config, base):
    return ppo_run(config, base)


@pytest.mark.parametrize("kind", ["sft", "ppo"])
def test_a_stopped_run_goes_on_bit_for_bit(kind, request, tmp_path):
    parts = request.getfixturevalue(f"{kind}_parts")
    shown = ("loss",) if kind == "sft" else ("reward", "kl")
    straight, stopped, resumed = [], [], []
    expected = go(tmp_path / "straight", parts, seeing(parts[2], straight), shown=shown)
    # Step 2 is logged but not saved when the interruption comes.
    with pytest.raises(KeyboardInterrupt):
        go(tmp_path / "stopped", parts, seeing(parts[2], stopped, stop_at=3), shown=shown)
    assert [row["step"] for row in read_metrics(tmp_path / "stopped" / "metrics.jsonl")] == [0, 1, 2]
    found = go(tmp_path / "stopped", parts, seeing(parts[2], resumed), shown=shown)
    jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert stopped[:2] + resumed == straight
    assert len(set(straight)) > 2
    rows, again = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "stopped"))
    assert rows == again
    assert [row["step"] for row in rows] == [0, 1, 2, 3]


def test_a_longer_run_goes_on_from_a_finished_one(sft_parts, tmp_path):
    seen = []
    go(tmp_path / "run", sft_parts, seeing(sft_parts[2], seen), steps=2)
    found = go(tmp_path / "run", sft_parts, seeing(sft_parts[2], seen), steps=4)
    assert int(found.step) == len(seen) == 4
    # A finished run is read back and nothing is computed.
    again = go(tmp_path / "run", sft_parts, seeing(sft_parts[2], seen), steps=4)
    assert len(seen) == 4
    jax.tree.map(np.testing.assert_array_equal, found, again)


def test_other_settings_are_refused(sft_parts, tmp_path):
    go(tmp_path, sft_parts, sft_parts[2], steps=1)
    before = (tmp_path / "metrics.jsonl").read_text()
    with pytest.raises(InputError, match=r"run\.json.*rate 0\.01 instead of 0\.02"):
        go(tmp_path, sft_parts, sft_parts[2], steps=2, settings={"rate": 2e-2})
    assert (tmp_path / "metrics.jsonl").read_text() == before


def scalar_parts(bad_step, value):
    """A run of nothing but a counter whose loss breaks at one step and stays broken."""
    records = [Prompt(id="1", image=None, turns=(Turn("human", "hi"),))]

    def step(state, batch):
        loss = value if int(state.step) >= bad_step else 1.0
        moved = jax.tree.map(lambda leaf: leaf + 1, state.params)
        return dataclasses.replace(state, params=moved, step=state.step + 1), {"loss": jnp.float32(loss)}

    def make(config):
        first = functools.partial(start, Optim(1.0), {"head": {"kernel": jnp.zeros(2)}})
        batches = prompt_batches(records, Letters(), config, PLAIN, 1, 48, 80, SHORT, seed=1)
        return batches, lambda: place(make_mesh(), first()), step

    return make


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_divergence_stops_the_run_after_the_last_good_checkpoint(config, tmp_path, value):
    parts = scalar_parts(3, value)(config)
    with pytest.raises(DivergedError, match="step 3: loss is not finite"):
        go(tmp_path, parts, parts[2], steps=8, save_every=1)
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == ["2", "3"]


@pytest.mark.parametrize(("save_every", "log_every", "kept"), [(2, 3, ["2"]), (3, 8, []), (1, 8, ["1", "2"])])
def test_a_diverged_state_is_never_saved(config, tmp_path, save_every, log_every, kept):
    parts = scalar_parts(2, np.nan)(config)
    with pytest.raises(DivergedError):
        go(tmp_path, parts, parts[2], steps=8, save_every=save_every, log_every=log_every)
    assert sorted(path.name for path in (tmp_path / "steps").iterdir()) == kept


def test_only_logged_steps_are_written_and_the_last_one_always(config, tmp_path):
    parts = scalar_parts(99, 0.0)(config)
    go(tmp_path, parts, parts[2], steps=8, save_every=100, log_every=3)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows == [{"step": step, "loss": 1.0} for step in (2, 5, 7)]
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["8"]


def test_sigterm_saves_the_step_and_the_run_goes_on_bit_for_bit(sft_parts, tmp_path):
    step = sft_parts[2]
    straight = go(tmp_path / "straight", sft_parts, step)
    calls = []

    def terminated(state, batch):
        calls.append(1)
        if len(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return step(state, batch)

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(TerminatedError, match="step 3 of 4 is saved"):
        go(tmp_path / "stopped", sft_parts, terminated)
    assert len(calls) == 3
    assert signal.getsignal(signal.SIGTERM) == before
    seen = []
    resumed = go(tmp_path / "stopped", sft_parts, seeing(step, seen))
    assert len(seen) == 1
    jax.tree.map(np.testing.assert_array_equal, resumed, straight)
    one, two = (read_metrics(tmp_path / name / "metrics.jsonl") for name in ("straight", "stopped"))
    assert one == two


class Signalling(float):
    """A metric that SIGTERM comes with, while the host waits for it."""

    def __float__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        return 0.0


def test_a_signal_between_saving_and_stopping_claims_nothing(sft_parts, tmp_path):
    """Whichever step the message names is on disk."""
    step, calls = sft_parts[2], []

    def signalled(state, batch):
        calls.append(1)
        state, metrics = step(state, batch)
        return state, {"loss": Signalling()} if len(calls) == 1 else metrics

    with pytest.raises(TerminatedError, match="step 2 of 4 is saved"):
        go(tmp_path, sft_parts, signalled, save_every=4)
    assert [path.name for path in (tmp_path / "steps").iterdir()] == ["2"]


def test_speed_stands_beside_the_metrics(config, tmp_path):
    parts = scalar_parts(99, 0.0)(config)
    go(tmp_path, parts, parts[2], steps=5, log_every=2)
    first, *others = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [row["step"] for row in (first, *others)] == [1, 3, 4]
    assert "first_step_seconds" in first
    assert all({"step_seconds", "data_wait", "host_peak_bytes"} == row.keys() - {"step"} for row in others)


def test_a_trace_of_the_steps_asked_for(config, tmp_path, capsys):
    parts = scalar_parts(99, 0.0)(config)
    go(tmp_path, parts, parts[2], steps=5, profile=2)
    assert f"profile of steps 2 to 3: {tmp_path / 'profile'}" in capsys.readouterr().out
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))
    go(tmp_path / "short", parts, parts[2], steps=2, profile=2)
    assert "no profile: it begins after 2 steps, and 2 are left" in capsys.readouterr().out
    assert not (tmp_path / "short" / "profile").exists()
