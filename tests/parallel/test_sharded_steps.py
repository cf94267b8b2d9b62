"""Training steps of the tiny preset on eight devices against one: the same losses, the same weights after the step."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tpu.program import Program
from vlm_jax.arrays import Batch, PreferenceBatch, PromptBatch
from vlm_jax.config import PRESETS
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.adapters import init_lora, init_value_head
from vlm_jax.models.llava import init_llava
from vlm_jax.parallel.compile import jit_step, place, place_batch
from vlm_jax.parallel.mesh import make_mesh, shardings
from vlm_jax.train.optim import Optim, start
from vlm_jax.train.ppo import PpoSettings, ppo_update, rollout
from vlm_jax.train.reward import RewardSettings, reward_step
from vlm_jax.train.sft import SftSettings, sft_step

CONFIG = PRESETS["scenes-tiny"]
# A small rate: Adam turns the rounding of a gradient near 0 into a whole step. Its moments show the gradients.
OPTIM = Optim(1e-5, schedule="constant")
PPO = PpoSettings(OPTIM, sampling=Sampling(max_new_tokens=4), reward_scale=1.0, epochs=1, rollout_parts=2)
ROWS, WIDTH = 16, 24


def weights(make, seed):
    """Random weights of visible size in the shapes of what ``make`` makes."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        return (0.1 * rng.standard_normal(leaf.shape) + (path[-1].key == "scale")).astype(np.float32)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(make))


def role(seed):
    return weights(lambda: {"lora": init_lora(CONFIG, jax.random.key(0)), "head": init_value_head(CONFIG)}, seed)


def batch(seed, side="right") -> Batch:
    """Rows of every length; every second one has an image."""
    rng = np.random.default_rng(seed)
    tokens = rng.integers(4, 512, (ROWS, WIDTH)).astype(np.int32)
    places = np.arange(WIDTH) if side == "right" else np.arange(WIDTH)[::-1]
    real = places < rng.integers(14, WIDTH + 1, (ROWS, 1))
    image = np.zeros_like(real)
    for row in range(0, ROWS, 2):
        first = np.flatnonzero(real[row])[0] + 1
        image[row, first : first + CONFIG.vision.patches] = True
    images = rng.integers(0, 256, (ROWS, 48, 48, 3)).astype(np.uint8)
    tokens[image], tokens[~real] = CONFIG.image_token_id, CONFIG.pad_token_id
    return Batch(tokens, real, image, real & ~image, images)


def sft(mesh, base):
    state = place(mesh, start(OPTIM, {"lora": role(1)["lora"]}))
    step = jit_step(sft_step, mesh, CONFIG, SftSettings(OPTIM, microbatches=2), state=state)
    return state, step, lambda state, number: step(base, state, place_batch(mesh, batch(number)))


def reward(mesh, base):
    state = place(mesh, start(OPTIM, role(1)))
    step = jit_step(reward_step, mesh, CONFIG, RewardSettings(OPTIM), state=state)

    def run(state, number):
        choice = (np.arange(ROWS // 2) % 2).astype(np.int32)
        return step(base, state, place_batch(mesh, PreferenceBatch(batch(number, "left"), choice)))

    return state, step, run


def prompts(number) -> PromptBatch:
    rng, prompt = np.random.default_rng(number), batch(number, "left")
    return PromptBatch(
        prompt=prompt,
        reward_images=None,
        suffix_tokens=rng.integers(4, 512, (ROWS, 3)).astype(np.int32),
        suffix_mask=np.arange(3) < rng.integers(1, 4, (ROWS, 1)),
        length_bonus=rng.random(ROWS).astype(np.float32),
        caption_type=np.ones(ROWS, np.int32),
        index=np.arange(ROWS, dtype=np.int32),
    )


def ppo(mesh, base):
    frozen = place(mesh, {"reference": {"lora": role(1)["lora"]}, "reward": role(3)})
    state = place(mesh, start(OPTIM, {"policy": {"lora": role(1)["lora"]}, "value": role(2)}))
    sample = jax.jit(functools.partial(rollout, CONFIG, PPO))
    update = jit_step(ppo_update, mesh, CONFIG, PPO, state=state)

    def run(state, number):
        key = jax.random.key(number)
        measured = sample(base, state.params, frozen, place_batch(mesh, prompts(number)), key)
        correct = place_batch(mesh, (np.asarray(measured.answers)[:, 0] % 2).astype(np.float32))
        state, metrics = update(base, state, measured, correct, key)
        assert sample._cache_size() == 1
        return state, {**metrics, "tokens": measured.answers, "scores": measured.scores}

    return state, update, run


KINDS = {"sft": sft, "reward": reward, "ppo": ppo}


@functools.cache
def two_steps(kind, **axes):
    """Metrics of two steps, the state after the first and after both; shardings and compilations are checked."""
    mesh = make_mesh(**axes)
    base = place(mesh, weights(lambda: init_llava(CONFIG, jax.random.key(0)), 0))
    with jax.set_mesh(mesh):
        state, step, run = KINDS[kind](mesh, base)
        wanted, found = shardings(mesh, state), []
        for number in range(2):
            state, metrics = run(state, number)
            found.append(jax.device_get((metrics, state)))
            assert jax.tree.map(lambda leaf: leaf.sharding, state) == wanted
        assert step._cache_size() == 1
    return found


def assert_close(found, expected, tolerance):
    """Every leaf, relative to its norm; one that is nearly 0 beside the others, relative to a thousandth of theirs."""
    others = jax.tree.leaves(expected)
    floor = 1e-3 * np.sqrt(sum(np.square(np.linalg.norm(other)) for other in others))
    for one, other in zip(jax.tree.leaves(found), others, strict=True):
        assert np.linalg.norm(one - other) <= tolerance * max(np.linalg.norm(other), floor)


# Every way to lay out eight devices.
LAYOUTS = [
    {name: size for name, size in zip(("data", "fsdp", "tensor"), sizes, strict=True) if size > 1}
    for sizes in itertools.product((1, 2, 4, 8), repeat=3)
    if np.prod(sizes) == 8
]
QUICK = [{"fsdp": 2, "tensor": 4}, {"data": 8}, {"fsdp": 8}]
AXES = [pytest.param(axes, id=str(axes), marks=[] if axes in QUICK else pytest.mark.slow) for axes in LAYOUTS]


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("kind", KINDS)
def test_eight_devices_compute_what_one_computes(kind, axes):
    for (metrics, state), (expected, expected_state) in zip(two_steps(kind, **axes), two_steps(kind), strict=True):
        assert metrics.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(metrics[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
        assert_close(state.params, expected_state.params, 1e-5)
        assert_close(state.optimizer, expected_state.optimizer, 1e-4)


def test_weights_are_really_split():
    """No axis of the tiny preset falls back to being whole without our noticing."""
    mesh = make_mesh(fsdp=2, tensor=4)
    state = place(mesh, start(OPTIM, role(1)))
    pair = state.params["lora"]["mlp"]["gate"]
    shapes = {name: (leaf.shape, leaf.addressable_shards[0].data.shape) for name, leaf in pair.items()}
    assert shapes == {"a": ((4, 128, 8), (4, 64, 8)), "b": ((4, 8, 352), (4, 8, 44))}
    assert len(place_batch(mesh, jnp.zeros((ROWS, 3))).addressable_shards[0].data) == ROWS // 2


def compiled_sft(**axes):
    mesh = make_mesh(**axes)
    base = place(mesh, weights(lambda: init_llava(CONFIG, jax.random.key(0)), 0))
    with jax.set_mesh(mesh):
        state, step, _ = sft(mesh, base)
        return step.lower(base, state, place_batch(mesh, batch(0))).compile()


def collectives(program):
    """Kind and shape of everything that travels between devices in a compiled program."""
    return [(one.kind, shape) for one in Program(program.as_text()).transfers() for shape in one.shapes]


@pytest.mark.parametrize("axes", [{"data": 8}, {"fsdp": 8}], ids=str)
def test_no_device_does_anothers_work(axes):
    """Not the tower's either: its work is that of the device's own rows."""
    one, eight = (compiled_sft(**layout).cost_analysis()["flops"] for layout in ({}, axes))
    assert eight == pytest.approx(one / 8, rel=0.05)


def test_only_weights_travel_under_fsdp():
    """No ids, no embeddings, no pictures' features: rows stay where they are."""
    shapes = jax.eval_shape(lambda: init_llava(CONFIG, jax.random.key(0)))
    adapters = jax.eval_shape(lambda: init_lora(CONFIG, jax.random.key(0)))

    def travelling(leaf):
        # Of stacked layers one at a time, with or without its axis.
        sizes = leaf.shape[1:] if len(leaf.shape) == 3 else leaf.shape
        return {tuple(sorted(sizes)), tuple(sorted((1, *sizes)))}

    allowed = {(), *set().union(*map(travelling, jax.tree.leaves((shapes, adapters))))}
    gathered = {tuple(sorted(shape)) for kind, shape in collectives(compiled_sft(fsdp=8)) if kind != "all-reduce"}
    assert gathered
    assert gathered <= allowed
    # What is summed are gradients of adapters, losses and counts: nothing that has rows and positions.
    summed = {shape for kind, shape in collectives(compiled_sft(fsdp=8)) if kind == "all-reduce"}
    assert not [shape for shape in summed if WIDTH in shape]
