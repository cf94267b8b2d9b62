"""The analytic plan: its operations are those that jax traces, its arguments those of the step, its bytes near the
compiler's."""

import dataclasses
from pathlib import Path

import pytest

from tpu.fit import read
from tpu.flops import flops
from tpu.table import far_off, ratios_of
from vlm_jax.config import PRESETS
from vlm_jax.files import read_json
from vlm_jax.planning import costs
from vlm_jax.planning.chips import topology_named
from vlm_jax.planning.layouts import abstract_mesh
from vlm_jax.planning.plan import PHASES, plan
from vlm_jax.planning.steps import Case, bytes_on_a_chip, step_of

V5E, H100 = map(topology_named, ("v5e-16", "h100x1"))
MEASURED = Path(__file__).parents[2] / "experiments" / "speed" / "results" / "gpu"
LAYOUT = (1, 16, 1)


@pytest.mark.parametrize("step", PHASES)
@pytest.mark.parametrize("preset", ["llava-1.5-7b"])
def test_operations_are_those_that_jax_traces(preset, step):
    case = Case(preset, step)
    traced = step_of(case, abstract_mesh(LAYOUT)).traced
    counted = flops(traced, case.sizes.get("max_new_tokens", 1) - 1)
    assert 16 * plan(case, V5E, LAYOUT).cost.flops == pytest.approx(counted, rel=0.025)


@pytest.mark.parametrize("remat", ["none", "dots"])
def test_less_is_computed_where_more_is_kept(remat):
    case = Case("llava-1.5-7b", "sft lora", changes=(("remat", remat),))
    counted = flops(step_of(case, abstract_mesh(LAYOUT)).traced, 0)
    found, block = plan(case, V5E, LAYOUT), plan(Case("llava-1.5-7b", "sft lora"), V5E, LAYOUT)
    assert 16 * found.cost.flops == pytest.approx(counted, rel=0.05)
    assert found.cost.flops < block.cost.flops
    assert found.total > block.total


@pytest.mark.parametrize("step", PHASES)
def test_arguments_are_those_of_the_step(step):
    case = Case("llava-rlhf-7b", step, "bfloat16" if step == "sft full" else "nf4")
    expected = bytes_on_a_chip(step_of(case, abstract_mesh(LAYOUT)).arguments)
    assert sum(plan(case, V5E, LAYOUT).arguments.values()) == expected


def test_microbatches_take_less_memory_and_the_same_time():
    whole, parts = (
        plan(Case("llava-1.5-7b", "sft lora", changes=(("microbatches", number),)), topology_named("v5e-4"), (1, 4, 1))
        for number in (1, 8)
    )
    assert sum(parts.temporaries.values()) < sum(whole.temporaries.values()) / 4
    assert parts.cost.flops == pytest.approx(whole.cost.flops)
    assert not whole.fits
    assert parts.fits


def test_tensor_splits_what_a_chip_does():
    case = Case("llava-1.5-7b", "score")
    fsdp, tensor = plan(case, V5E, (1, 16, 1)), plan(case, V5E, (1, 4, 4))
    # Four times the rows, a quarter of the heads and hidden units.
    assert tensor.temporaries["kernels of a block"] == fsdp.temporaries["kernels of a block"] // 4
    assert tensor.cost.flops == pytest.approx(fsdp.cost.flops)


def test_a_token_costs_what_its_weights_and_its_cache_cost():
    config = PRESETS["llava-1.5-7b"]
    weights = costs.Weights(config, (1, 1, 1), blocks=10**9, ends=10**8)
    assert weights.read() == costs.Cost(traffic=1.1e9)
    one = costs.forward(weights, 2, 1, adapted=False, heads=1, seen=1000)
    numbers = 4 * 4096**2 + 3 * 4096 * 11008
    assert one.flops == 2 * (32 * (2 * numbers + 4 * 1000 * 4096) + 2 * 4096 * 32000)
    keys = 32 * 2 * 2 * 1000 * 4096 * 2
    assert one.traffic == keys + 32 * 2 * (10 * 4096 + 4 * 11008) * 2
    assert one.network == 0


def test_the_slowest_of_three_is_the_bound():
    chip = dataclasses.replace(V5E.chip, flops=10.0, bandwidth=5.0, network=1.0)
    phases = [costs.Cost(flops=100.0, traffic=10.0), costs.Cost(traffic=5.0, network=3.0)]
    assert costs.roofline(phases, chip) == (13.0, "compute")
    assert costs.roofline(phases[1:], chip) == (3.0, "network")


def test_the_plan_is_near_the_compiler():
    ratios = ratios_of(read())
    assert ratios
    assert not far_off(ratios)


@pytest.mark.parametrize(
    ("stage", "steps", "changes"),
    [
        ("sft_4096", ("sft lora",), {"batch_size": 2, "microbatches": 1, "max_length": 4096, "remat": "dots"}),
        (
            "ppo_7b",
            ("rollout", "ppo"),
            {"batch_size": 32, "minibatches": 1, "rollout_parts": 1, "prompt_length": 704, "max_new_tokens": 256},
        ),
    ],
)
def test_the_plan_is_near_what_a_card_took(stage, steps, changes):
    """Peaks that one H100 measured of the same steps (``experiments.speed.gpu``)."""
    measured = read_json(MEASURED / f"{stage}.json")
    if stage == "ppo_7b":
        changes = {**changes, "microbatches": measured["microbatches"], "suffix_length": measured["suffix"]}
    plans = [plan(Case("llava-1.5-7b", step, changes=tuple(changes.items())), H100, (1, 1, 1)) for step in steps]
    assert max(one.total for one in plans) == pytest.approx(1e9 * measured["peak_gb"], rel=0.12)


def test_decoding_under_fsdp_moves_no_weights():
    """A chip reads its share of them for every token, and only states go over the network."""
    case = Case("llava-1.5-7b", "rollout", changes=(("rollout_parts", 1),))
    split, whole = (plan(case, V5E, layout) for layout in ((1, 16, 1), (16, 1, 1)))
    tokens = case.sizes["max_new_tokens"] - 1
    assert whole.cost.traffic - split.cost.traffic > 0.9 * tokens * 2 * 6.4e9 * 15 / 16
    assert split.cost.network < 0.1 * tokens * 2 * 6.4e9
