"""Our side: the steps of ``vlm_jax.train`` and its decoder, compiled and run as the commands do."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from experiments.speed.shapes import Inputs, Shape, adapter_folder, base_folder, heads, inputs
from experiments.speed.work import Figures, Work
from vlm_jax.arrays import Batch, Params, PreferenceBatch, PromptBatch
from vlm_jax.checkpoints.adapters import load_adapter
from vlm_jax.checkpoints.hf_llava import load_llava
from vlm_jax.config import LlavaConfig
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.parallel.compile import jit_step, place, place_batch
from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.train.optim import Optim, split_rows, start
from vlm_jax.train.ppo import PpoSettings, ppo_update, rollout
from vlm_jax.train.reward import RewardSettings, reward_step
from vlm_jax.train.reward_terms import RewardTerms
from vlm_jax.train.sft import SftSettings, sft_step

OPTIM = Optim(learning_rate=1e-4, schedule="constant")
# Beyond every vocabulary: no answer ends before its limit.
_NO_END = -1


def ppo_settings(shape: Shape) -> PpoSettings:
    """Rewards are the model's scores alone: no answer ends, so that the penalty for it would be the same for all."""
    return PpoSettings(OPTIM, Sampling(max_new_tokens=shape.answer), RewardTerms(0.0, 0.0, 0.0))


def load_base(shape: Shape, folder: Path) -> Params:
    """Through the converter."""
    found, base = load_llava(base_folder(folder))
    if (found.vision, found.language) != (shape.config.vision, shape.config.language):
        raise ValueError(f"converted as {found}, not as {shape.config}")
    return place(_mesh(), base)


def load_role(shape: Shape, folder: Path, role: str) -> Params:
    """An adapter that peft wrote, with the role's head where it has one."""
    found = load_adapter(adapter_folder(folder, role), shape.config)
    if role in (kernels := heads(shape)):
        found["head"] = {"kernel": kernels[role], "bias": np.zeros((), np.float32)}
    return place(_mesh(), found)


def _endless(config: LlavaConfig) -> LlavaConfig:
    return dataclasses.replace(config, eos_token_id=_NO_END)


def _mesh() -> jax.sharding.Mesh:
    return make_mesh(devices=jax.devices()[:1])


def _batch(shape: Shape, given: Inputs) -> Batch:
    """The loss is on the answer."""
    everywhere = np.ones(given.tokens.shape, bool)
    answer = everywhere & (np.arange(given.tokens.shape[1]) >= shape.prompt)
    return Batch(given.tokens, everywhere, given.image_mask, answer, given.images)


def _training(step: Callable, shape: Shape, settings: Any, base: Params, params: Params, batch: Any) -> Work:
    mesh = _mesh()
    state = place(mesh, start(OPTIM, params))
    batch, compiled = place_batch(mesh, batch), None

    def compile_step():
        nonlocal compiled
        with jax.set_mesh(mesh):
            jitted = jit_step(step, mesh, shape.config, settings, state=state)
            compiled = jitted.lower(base, state, batch).compile()

    def one_step(_: Figures | None) -> Figures:
        nonlocal state
        state, metrics = compiled(base, state, batch)
        jax.block_until_ready(state)
        return {"loss": np.asarray(metrics["loss"])}

    return Work(compile_step, one_step)


def sft(shape: Shape, folder: Path) -> Work:
    """Projector and language model; the base stays beside them, as in the command."""
    base = load_base(shape, folder)
    trained = {"base": jax.tree.map(jnp.copy, {part: base[part] for part in ("projector", "language")})}
    return _training(sft_step, shape, SftSettings(OPTIM), base, trained, _batch(shape, inputs(shape)))


def lora(shape: Shape, folder: Path) -> Work:
    role = load_role(shape, folder, "policy")
    base = load_base(shape, folder)
    return _training(sft_step, shape, SftSettings(OPTIM), base, role, _batch(shape, inputs(shape)))


def reward(shape: Shape, folder: Path) -> Work:
    """Half as many pairs as rows; the first answer is always the better one."""
    pairs = PreferenceBatch(_batch(shape, inputs(shape)), np.zeros(shape.rows // 2, np.int32))
    role = load_role(shape, folder, "reward")
    return _training(reward_step, shape, RewardSettings(OPTIM), load_base(shape, folder), role, pairs)


def greedy(shape: Shape, folder: Path) -> Work:
    base, mesh, compiled = load_base(shape, folder), _mesh(), None
    config = _endless(shape.config)
    batch = place_batch(mesh, _batch(shape, inputs(shape, shape.prompt)))
    sampling, key = Sampling(max_new_tokens=shape.answer, temperature=0.0), jax.random.key(0)

    def compile_decoder():
        nonlocal compiled
        decode = jax.jit(lambda base, batch, key: generate(config, base, None, batch, key, sampling).tokens)
        with jax.set_mesh(mesh):
            compiled = decode.lower(base, batch, key).compile()

    return Work(compile_decoder, lambda _: {"tokens": np.asarray(compiled(base, batch, key))})


def prompts(shape: Shape) -> PromptBatch:
    """What PPO samples from; the reward model sees the policy's image."""
    given, rows = inputs(shape, shape.prompt), np.arange(shape.rows, dtype=np.int32)
    return PromptBatch(
        prompt=_batch(shape, given),
        reward_images=None,
        suffix_tokens=given.turn,
        suffix_mask=np.ones(given.turn.shape, bool),
        length_bonus=np.zeros(shape.rows, np.float32),
        caption_type=np.ones_like(rows),
        index=rows,
    )


def orders(settings: PpoSettings, rows: int, key: jax.Array) -> np.ndarray:
    """Rows [epochs * minibatches, rows / minibatches] of every minibatch of ``ppo_update`` with this key."""
    drawn = [jax.random.permutation(jax.random.fold_in(key, epoch), rows) for epoch in range(settings.epochs)]
    return np.concatenate([split_rows(order, settings.minibatches) for order in drawn])


def ppo(shape: Shape, folder: Path) -> Work:
    mesh, settings, config = _mesh(), ppo_settings(shape), _endless(shape.config)
    roles = {role: load_role(shape, folder, role) for role in ("policy", "reference", "value", "reward")}
    state = place(mesh, start(OPTIM, {"policy": roles["policy"], "value": roles["value"]}))
    frozen = {"reference": roles["reference"], "reward": roles["reward"]}
    base, batch = load_base(shape, folder), place_batch(mesh, prompts(shape))
    right = place_batch(mesh, np.zeros(shape.rows, np.float32))
    sample = update = None
    number = 0

    def key():
        return jax.random.key(number)

    def compile_both():
        nonlocal sample, update
        with jax.set_mesh(mesh):
            jitted = jax.jit(functools.partial(rollout, config, settings))
            sample = jitted.lower(base, state.params, frozen, batch, key()).compile()
            step = jit_step(ppo_update, mesh, config, settings, state=state)
            update = step.lower(base, state, sample.out_info, right, key()).compile()

    def iteration(_: Figures | None) -> Figures:
        nonlocal state, number
        measured = sample(base, state.params, frozen, batch, key())
        # The stop on the host that the command makes for the log.
        answers = np.asarray(measured.answers)
        state, metrics = update(base, state, measured, right, key())
        jax.block_until_ready(state)
        found = {name: getattr(measured, name) for name in ("log_probs", "reference_log_probs", "values", "scores")}
        found |= {name: metrics[name] for name in ("policy_loss", "value_loss")}
        found = {name: np.asarray(value) for name, value in found.items()}
        order = orders(settings, shape.rows, key())
        number += 1
        return found | {"answers": answers, "orders": order}

    return Work(compile_both, iteration)


WORKLOADS: dict[str, Callable[[Shape, Path], Work]] = {
    "sft": sft,
    "lora": lora,
    "reward": reward,
    "greedy": greedy,
    "ppo": ppo,
}
