"""Our steps beside torch's: both compute the same, and a comparison leaves results for tables and claims."""

import dataclasses
import os
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
import torch

from experiments.claims import table
from experiments.speed import cpu, memory, ours, readme, torch_ppo, torch_side
from experiments.speed.cases import VARIANTS, Case, compiled_cases, main_cases, slope_cases
from experiments.speed.claims import summary
from experiments.speed.shapes import Shape, heads, inputs, model
from experiments.speed.timing import differences, others_share
from vlm_jax.config import LanguageConfig, VisionConfig
from vlm_jax.errors import InputError
from vlm_jax.files import read_json
from vlm_jax.train.advantages import generalised_advantages, whiten
from vlm_jax.train.losses import clipped_policy_loss, clipped_value_loss

SMALL = Shape(
    model(
        VisionConfig(image_size=28, patch_size=14, width=24, layers=2, heads=2, mlp_width=32),
        LanguageConfig(vocab_size=64, width=32, layers=2, heads=2, kv_heads=2, mlp_width=48),
        image_token_id=3,
    ),
    rows=4,
    length=16,
    answer=5,
)


@pytest.fixture(autouse=True)
def one_thread():
    """What is this small is slower in several."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def case_of(workload, name="small", table="main", **more):
    return Case(f"{name} {workload}", name, workload, SMALL, VARIANTS[workload], table, **more)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Weights of the small shape."""
    found = tmp_path_factory.mktemp("weights")
    torch_side.write_weights(SMALL, found)
    return found


@pytest.fixture(scope="module")
def iteration(folder):
    """What our first PPO iteration finds."""
    work = ours.ppo(SMALL, folder)
    work.compile()
    return work.step(None)


def test_a_whole_ppo_iteration_is_torchs(folder, iteration):
    """What four roles make of the same answers, and the losses of all four updates: the later ones see what the
    optimizer did to both adapters and the head."""
    theirs = torch_ppo.ppo(SMALL, folder).step(iteration)
    found = differences(iteration, theirs)
    assert found.keys() == {
        *("log_probs", "reference_log_probs", "values", "scores", "policy_loss", "value_loss"),
    }
    assert max(found.values()) <= 1e-4
    # Nothing of it is zero, and no two roles are one.
    assert all(np.abs(iteration[name]).max() > 1e-3 for name in found)
    assert np.abs(iteration["log_probs"] - iteration["reference_log_probs"]).max() > 1e-3


def test_torchs_ppo_losses_before_the_first_update_are_ours(folder, iteration):
    settings, theirs = ours.ppo_settings(SMALL), torch_ppo.Settings()
    roles = torch_ppo.load_roles(SMALL, folder)
    measured = torch_ppo.measure(SMALL, roles, iteration["answers"])
    everything = np.arange(SMALL.rows)[None]
    optimizer = torch_side.optimizer_of(roles.trained())
    found = torch_ppo.update(SMALL, theirs, roles, optimizer, measured, everything)

    log_probs, reference, values, scores = (
        jnp.asarray(iteration[name]) for name in ("log_probs", "reference_log_probs", "values", "scores")
    )
    rewards = (-settings.kl_coefficient * (log_probs - reference)).at[:, -1].add(scores) * settings.reward_scale
    advantages, returns = generalised_advantages(rewards, values, settings.gamma, settings.lam)
    whitened = whiten(advantages, jnp.ones(advantages.shape, bool))
    policy = clipped_policy_loss(log_probs, log_probs, whitened, settings.clip).mean()
    value = clipped_value_loss(values, values, returns, settings.value_clip).mean()
    assert found == pytest.approx({"policy_loss": float(policy), "value_loss": float(value)}, abs=1e-4)
    np.testing.assert_allclose(torch_ppo.advantages_of(theirs, measured)[0].numpy(), whitened, atol=1e-4)


def test_torchs_ppo_trains_two_adapters_and_a_head_alone(folder, iteration):
    roles = torch_ppo.load_roles(SMALL, folder)
    named = {**dict(roles.model.named_parameters()), **dict(roles.value_head.named_parameters())}
    before = {name: weight.detach().clone() for name, weight in named.items()}
    reward = roles.reward_head.weight.clone()
    measured = torch_ppo.measure(SMALL, roles, iteration["answers"])
    optimizer = torch_side.optimizer_of(roles.trained())
    torch_ppo.update(SMALL, torch_ppo.Settings(), roles, optimizer, measured, iteration["orders"])
    moved = {name for name, weight in named.items() if not torch.equal(weight, before[name])}
    trained = {name for name in named if ".policy." in name or ".value." in name} | {"weight", "bias"}
    assert moved == trained
    assert torch.equal(roles.reward_head.weight, reward)


def test_both_sides_have_the_same_settings():
    settings, theirs = ours.ppo_settings(SMALL), torch_ppo.Settings()
    assert dataclasses.asdict(theirs) == {name: getattr(settings, name) for name in dataclasses.asdict(theirs)}
    optim = ours.OPTIM
    (group,) = torch_side.optimizer_of([torch.nn.Parameter(torch.zeros(1))]).param_groups
    assert (group["lr"], group["weight_decay"], group["betas"]) == (
        optim.learning_rate,
        optim.weight_decay,
        (0.9, optim.b2),
    )
    assert optim.clip_norm == torch_side.CLIP_NORM
    assert (optim.schedule, optim.warmup_steps) == ("constant", 0)


@pytest.mark.parametrize("workload", ["sft", "lora", "reward"])
def test_three_training_steps_are_torchs(folder, workload):
    mine, theirs = ours.WORKLOADS[workload](SMALL, folder), getattr(torch_side, workload)(SMALL, folder)
    mine.compile()
    losses = [(float(mine.step(None)["loss"]), float(theirs.step(None)["loss"])) for _ in range(3)]
    assert [one for one, _ in losses] == pytest.approx([other for _, other in losses], abs=1e-5)
    assert abs(losses[2][0] - losses[0][0]) > 1e-4


def test_a_comparison_leaves_results_and_is_not_made_twice(tmp_path, monkeypatch, capsys):
    results = tmp_path / "results" / "cpu.json"
    options = cpu.Options(repetitions=2, warm_ups=1, slope_repetitions=1)
    cases = [case_of("lora"), case_of("greedy"), case_of("sft", "wide", "slopes", axis="rows")]
    real, made_up = memory.peak_memory, {"imports": 0.1, "peak": 0.3, "steps": 0.2}
    # A process each: once is enough.
    monkeypatch.setattr(memory, "peak_memory", lambda case, *a: real(case, *a) if "lora" in case.name else made_up)
    cpu.run(options, cases, results)
    found = read_json(results)["runs"]
    assert list(found) == [case.name for case in cases]
    for one, repetitions in zip(found.values(), (2, 2, 1), strict=True):
        assert [len(one[side]["seconds"]) for side in ("ours", "torch")] == [repetitions] * 2
        assert 0 < one["ours"]["compile_seconds"] < one["ours"]["first_step_seconds"]
        assert 0 <= one["others_share"] <= 1
    assert set(found["small greedy"]["torch"]["warm_up_seconds"]) == {"dynamic cache", "static cache"}
    for side in ("ours", "torch"):
        gib = found["small lora"][side]["gib"]
        assert 0.02 < gib["imports"] <= gib["peak"]
        assert gib["steps"] <= gib["peak"]

    capsys.readouterr()
    monkeypatch.setattr(cpu, "compare", None)
    cpu.run(options, cases, results)
    assert capsys.readouterr().out.count("--again compares anew") == 3

    text = table({"speed": summary(tmp_path)})
    assert "| small: SFT step, LoRA r64, times as fast as torch, 2 cores |" in text
    assert "share of tokens that differ from torch's | 0.00 (no interval: computed once) | at most 0.00 | yes" in text
    runs = readme.load(tmp_path, "main").values()
    assert readme.main_table(runs).count("\n| small |") == 2
    assert readme.caches_table(runs).count("\n| small |") == 1
    (wide,) = readme.load(tmp_path, "slopes").values()
    wide |= {"ours": {"seconds": [0.25]}, "torch": {"seconds": [0.5]}}
    slower = wide | {"rows": 6, "torch": {"seconds": [0.75]}}
    assert "| rows | 4, 6 | 250, 250 | 500, 750 | 0.00 a row | 125.00 a row |" in readme.slopes_table([wide, slower])


def test_sides_that_differ_are_not_timed():
    case = case_of("sft")
    for found in ({"loss": 1e-4}, {"loss": float("nan")}, {}):
        with pytest.raises(ValueError, match="both sides differ"):
            cpu._agreed(case, found)
    assert cpu._agreed(case, {"loss": 1e-6}) == {"loss": 1e-6}


def test_differences():
    one = {"loss": np.array(200.0), "ids": np.array([1, 2, 3, 4]), "mine": np.array(1)}
    other = {"loss": np.array(201.0), "ids": np.array([1, 2, 0, 4])}
    assert differences(one, other) == {"ids": 0.25, "loss": 0.005}
    with pytest.raises(ValueError, match=r"ids: \(4,\) and \(3,\)"):
        differences(one, {"ids": np.array([1, 2, 3])})


def test_what_others_take_is_seen():
    busy = "import time\nend = time.process_time() + 0.5\nwhile time.process_time() < end: pass"
    with others_share() as found:
        subprocess.run([sys.executable, "-c", busy], check=True)
    # One core of all, for most of the time.
    assert 0.25 / len(os.sched_getaffinity(0)) < found[0] <= 1


def test_every_case_has_its_own_name_and_fits():
    cases = [*main_cases(("tiny", "mid"), tuple(VARIANTS)), *compiled_cases(), *slope_cases()]
    assert len({case.name for case in cases}) == len(cases)
    for case in cases:
        given = inputs(case.shape)
        assert given.tokens.shape == (case.shape.rows, case.shape.length)
        assert (given.image_mask.sum(1) == case.shape.config.vision.patches).all()
        assert not (given.tokens[~given.image_mask] == case.shape.config.image_token_id).any()
        assert given.tokens.max() < case.shape.config.language.vocab_size
    with pytest.raises(ValueError, match="a prompt of 4 positions with 4 of an image"):
        inputs(dataclasses.replace(SMALL, length=9))
    assert heads(SMALL)["value"].shape == (32,)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"models": ("tiny", "mad")}, "found --models mad .did you mean 'mid'"),
        ({"workloads": ("sft", "dpo")}, "found --workloads dpo"),
        ({"repetitions": 0}, "found no repetition"),
        ({"warm_ups": 0}, "or no warm-up"),
    ],
)
def test_options_that_cannot_be(asked, found):
    with pytest.raises(InputError, match=found):
        cpu.checked(cpu.Options(**asked))
