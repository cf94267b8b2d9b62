"""Every step of every preset at full size, traced on 64 abstract devices: no array is made, shapes and places are real.

A layer is traced once however many there are, so 13B costs what the tiny model costs.
"""

import math
import re
import warnings

import jax
import jax.numpy as jnp
import pytest
from abstract_steps import MESH, base, measured, step_of

from vlm_jax.config import PRESETS
from vlm_jax.parallel.mesh import path_name, replicated, shardings
from vlm_jax.planning.steps import BASES, MAKERS, Case

TRAINING = ("sft projector", "sft lora", "sft full", "reward", "ppo")
STEPS = tuple(MAKERS)
LARGE = [name for name in PRESETS if name != "scenes-tiny"]
EVERY = [Case(preset, step) for preset in PRESETS for step in STEPS]
# Every step meets kernels of every scheme once; that the other presets have them too would trace nothing new.
QUANTISED = [
    Case(preset, step, kind)
    for preset, kind in (("llava-rlhf-7b", "int8"), ("llava-1.5-7b", "nf4"), ("llava-1.5-13b", "nf4_double"))
    for step in STEPS
    if step != "sft full"
]


def cases(*steps):
    chosen = [case for case in EVERY + QUANTISED if case.step in steps]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: f"{case.preset}-{case.step}-{case.kind}")


def described(tree):
    """Path -> shape, type and whether the type is a weak one (which would compile again)."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {path_name(path): (leaf.shape, leaf.dtype, leaf.weak_type) for path, leaf in leaves}


@cases(*TRAINING)
def test_a_training_step_gives_back_the_state_that_it_took(case):
    traced, taken = step_of(case).traced, step_of(case).arguments[1]
    state, metrics = traced.out_info
    assert described(state) == described(taken)
    assert {leaf.dtype for leaf in jax.tree.leaves(taken.params)} == {jnp.dtype("float32")}
    assert jax.tree.map(lambda leaf: leaf.sharding, state) == shardings(MESH, taken)
    assert metrics
    for name, leaf in metrics.items():
        assert (leaf.shape, leaf.dtype, leaf.sharding) == ((), jnp.float32, replicated(MESH)), name
    check_donation(traced, taken)


def check_donation(traced, taken):
    """The state's buffers, and no others, are given away, and each has an output that takes it over."""
    with warnings.catch_warnings():
        # Jax warns of donated buffers that nothing can be written into.
        warnings.simplefilter("error")
        lowered = traced.lower(lowering_platforms=("cpu",))
    (_, state, *others), _ = lowered.args_info
    given = len(jax.tree.leaves(taken))
    assert [leaf.donated for leaf in jax.tree.leaves(state)] == [True] * given
    assert not any(leaf.donated for leaf in jax.tree.leaves(others))
    text = lowered.as_text()
    assert text.count("tf.aliasing_output") + text.count("jax.buffer_donor") == given


@cases("rollout")
def test_a_rollout_gives_what_the_update_takes(case):
    given, taken = step_of(case).traced.out_info, measured(case)
    assert {path: found[:2] for path, found in described(given).items()} == {
        path: found[:2] for path, found in described(taken).items()
    }
    sizes = case.sizes
    assert taken.mask.shape == (sizes["batch_size"], sizes["max_new_tokens"])
    assert taken.sequences.tokens.shape[1] == sizes["prompt_length"] + sizes["max_new_tokens"]


@cases("generate")
def test_answers(case):
    sizes = case.sizes
    rows, answer = sizes["batch_size"], sizes["max_new_tokens"]
    found = step_of(case).traced.out_info
    assert {name: found[:2] for name, found in described(found).items()} == {
        "tokens": ((rows, answer), jnp.int32),
        "log_probs": ((rows, answer), jnp.float32),
        "mask": ((rows, answer), jnp.bool_),
        "lengths": ((rows,), jnp.int32),
        "ended": ((rows,), jnp.bool_),
        "finite": ((rows,), jnp.bool_),
    }


@cases("score")
def test_scores_of_a_part_of_the_answers(case):
    found = step_of(case).traced.out_info
    assert (found.shape, found.dtype) == ((case.sizes["batch_size"] // case.sizes["microbatches"],), jnp.float32)


@cases("forward")
def test_states_and_logits(case):
    config, sizes = case.config, case.sizes
    rows, length = sizes["batch_size"], sizes["max_length"]
    hidden, logits = step_of(case).traced.out_info
    assert (hidden.shape, hidden.dtype) == ((rows, length, config.language.width), jnp.dtype(config.dtype))
    assert (logits.shape, logits.dtype) == ((rows, 1, config.language.vocab_size), jnp.float32)


def matrices(preset):
    """Everything of a model with more than one axis that stays on the devices: bases of every kind and all states."""
    for kind in BASES:
        yield f"base {kind}", base(PRESETS[preset], kind)
    for step in ("sft lora", "sft full", "reward"):
        yield step, step_of(Case(preset, step)).arguments[1]


# The patch and position tables of the tower, norms and biases: whole on every device.
SMALL = 2**20
KERNELS = re.compile(r"(blocks/\w+/\w+|head|projector/\w+)/kernel(/values|/codes|/absmax)?$")


@pytest.mark.parametrize("preset", LARGE)
def test_every_large_array_is_split_over_the_devices(preset):
    """Kernels over all 32 parts, adapters over one axis or both; a token table that is only read lies whole (0.3 GB in
    bfloat16), so that no look-up waits for another device."""
    for name, tree in matrices(preset):
        total = share = 0
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
            path, size, part = path_name(path), leaf.size, math.prod(leaf.sharding.shard_shape(leaf.shape))
            total, share = total + size, share + part
            if leaf.ndim > 1 and KERNELS.search(path):
                assert size == 32 * part, (name, path)
            elif path == "language/embedding":
                assert size == part
            elif size > SMALL:
                assert size in (8 * part, 32 * part), (name, path)
        # The halves of adapters that only fsdp splits are the worst, and of a base its table.
        assert share < total / (8 if "lora" in name or name == "reward" else 15), name
