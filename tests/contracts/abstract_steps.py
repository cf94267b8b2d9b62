"""Every step over shapes alone, laid out on 64 devices that nobody has to own."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from full_size_shapes import SIZES
from jax.sharding import AbstractMesh, AxisType

from vlm_jax.arrays import Batch, PreferenceBatch, PromptBatch
from vlm_jax.config import PRESETS, LlavaConfig, LoraConfig
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.adapters import init_lora, init_value_head
from vlm_jax.models.llava import forward, init_llava, logits
from vlm_jax.models.quantize import quantize_base
from vlm_jax.parallel.compile import jit_step
from vlm_jax.parallel.mesh import AXES, batch_sharding, shardings
from vlm_jax.train.optim import Optim, TrainState, start
from vlm_jax.train.ppo import PpoSettings, Rollout, ppo_update, rollout
from vlm_jax.train.reward import RewardSettings, reward_step
from vlm_jax.train.sft import SftSettings, sft_step

MESH = AbstractMesh((2, 8, 4), AXES, axis_types=(AxisType.Auto,) * 3)
OPTIM = Optim(1e-4, steps=1000, warmup_steps=30)
# Types and schemes of the frozen weights. Full fine-tuning trains them, so they cannot be quantised there.
BASES = ("bfloat16", "int8", "nf4", "nf4_double")


@dataclasses.dataclass(frozen=True)
class Case:
    """One step of one preset over one kind of base."""

    preset: str
    step: str
    kind: str = "bfloat16"

    @property
    def config(self) -> LlavaConfig:
        """As the verbs make it of a checkpoint and a recipe."""
        config, sizes = PRESETS[self.preset], self.sizes
        if sizes.get("lora_rank"):
            config = dataclasses.replace(config, lora=LoraConfig(sizes["lora_rank"], sizes["lora_alpha"]))
        return dataclasses.replace(config, remat=sizes.get("remat", config.remat))

    @property
    def sizes(self) -> Mapping[str, Any]:
        return SIZES[self.preset][self.step]

    @property
    def base(self) -> Any:
        return base(PRESETS[self.preset], self.kind)


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function and the shapes that it is called with."""

    function: Callable
    arguments: tuple

    @functools.cached_property
    def traced(self) -> jax.stages.Traced:
        with jax.sharding.use_abstract_mesh(MESH):
            return self.function.trace(*self.arguments)


@functools.cache
def step_of(case: Case) -> Step:
    return MAKERS[case.step](case)


def placed(tree: Any) -> Any:
    """The shapes of weights or a state where the table of rules puts them."""
    return jax.tree.map(_at, tree, shardings(MESH, tree))


def split_by_rows(tree: Any) -> Any:
    """The shapes of a batch where :func:`place_batch` puts it."""
    return jax.tree.map(lambda leaf: _at(leaf, batch_sharding(MESH)), tree)


def _at(leaf: Any, sharding: jax.sharding.NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=leaf.weak_type, sharding=sharding)


@functools.cache
def base(config: LlavaConfig, kind: str) -> Any:
    """Frozen weights as a checkpoint of this kind holds them."""

    def make():
        weights = jax.tree.map(lambda x: x.astype(jnp.bfloat16), init_llava(config, jax.random.key(0)))
        return weights if kind == "bfloat16" else quantize_base(weights, kind)

    return placed(jax.eval_shape(make))


@functools.cache
def _role(config: LlavaConfig) -> Any:
    return jax.eval_shape(lambda: {"lora": init_lora(config, jax.random.key(0)), "head": init_value_head(config)})


def _lora(config: LlavaConfig) -> Any:
    return {"lora": _role(config)["lora"]}


def _state(params: Any) -> TrainState:
    return placed(jax.eval_shape(lambda params: start(OPTIM, params), params))


def _batch(config: LlavaConfig, rows: int, length: int) -> Batch:
    def shape(dtype, *more):
        return jax.ShapeDtypeStruct((rows, *more), dtype)

    side = config.vision.image_size
    masks = (shape(bool, length) for _ in range(3))
    return split_by_rows(Batch(shape(jnp.int32, length), *masks, shape(jnp.uint8, side, side, 3)))


def _prompts(case: Case) -> PromptBatch:
    config, sizes = case.config, case.sizes

    def shape(dtype, *more):
        return jax.ShapeDtypeStruct((sizes["batch_size"], *more), dtype)

    prompt = _batch(config, sizes["batch_size"], sizes["prompt_length"])
    return split_by_rows(
        PromptBatch(
            prompt=prompt,
            # As another resolution for the reward model makes it.
            reward_images=prompt.images,
            suffix_tokens=shape(jnp.int32, sizes["suffix_length"]),
            suffix_mask=shape(bool, sizes["suffix_length"]),
            length_bonus=shape(jnp.float32),
            caption_type=shape(jnp.int32),
            index=shape(jnp.int32),
        )
    )


def _key() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


def _texts(case: Case, rows: int = 1) -> Batch:
    """``rows`` for each of the batch."""
    return _batch(case.config, rows * case.sizes["batch_size"], case.sizes["max_length"])


def _sft(case: Case, params: Any) -> Step:
    state = _state(params)
    step = jit_step(sft_step, MESH, case.config, SftSettings(OPTIM, case.sizes["microbatches"]), state=state)
    return Step(step, (case.base, state, _texts(case)))


def sft_lora(case: Case) -> Step:
    return _sft(case, _lora(case.config))


def sft_full(case: Case) -> Step:
    return _sft(case, {"base": {part: case.base[part] for part in ("projector", "language")}})


def reward(case: Case) -> Step:
    state = _state(_role(case.config))
    settings = RewardSettings(OPTIM, microbatches=case.sizes["microbatches"])
    step = jit_step(reward_step, MESH, case.config, settings, state=state)
    choice = split_by_rows(jax.ShapeDtypeStruct((case.sizes["batch_size"],), jnp.int32))
    return Step(step, (case.base, state, PreferenceBatch(_texts(case, rows=2), choice)))


def _ppo_settings(case: Case) -> PpoSettings:
    parts = {name: case.sizes[name] for name in ("epochs", "minibatches", "rollout_parts", "microbatches", "pads")}
    return PpoSettings(OPTIM, sampling=Sampling(max_new_tokens=case.sizes["max_new_tokens"]), **parts)


def measure(case: Case) -> Step:
    params = placed({"policy": _lora(case.config), "value": _role(case.config)})
    frozen = placed({"reference": _lora(case.config), "reward": _role(case.config)})
    sample = jax.jit(functools.partial(rollout, case.config, _ppo_settings(case)))
    return Step(sample, (case.base, params, frozen, _prompts(case), _key()))


def measured(case: Case) -> Rollout:
    """Shapes of what the rollout gives."""
    return step_of(dataclasses.replace(case, step="rollout")).traced.out_info


def ppo(case: Case) -> Step:
    """The update, fed with what the rollout gives."""
    state = _state({"policy": _lora(case.config), "value": _role(case.config)})
    update = jit_step(ppo_update, MESH, case.config, _ppo_settings(case), state=state)
    correct = split_by_rows(jax.ShapeDtypeStruct((case.sizes["batch_size"],), jnp.float32))
    arguments = (case.base, state, split_by_rows(measured(case)), correct, _key())
    return Step(update, arguments)


def answer(case: Case) -> Step:
    sampling = Sampling(max_new_tokens=case.sizes["max_new_tokens"], temperature=0.0)

    def run(base, lora, prompts, key):
        return generate(case.config, base, lora, prompts, key, sampling)

    return Step(jax.jit(run), (case.base, placed(_lora(case.config))["lora"], _texts(case), _key()))


def hidden_and_logits(case: Case) -> Step:
    def run(base, lora, batch):
        hidden = forward(case.config, base, lora, batch).hidden
        return hidden, logits(case.config, base, hidden[:, -1:])

    return Step(jax.jit(run), (case.base, placed(_lora(case.config))["lora"], _texts(case)))


MAKERS: dict[str, Callable[[Case], Step]] = {
    "sft lora": sft_lora,
    "sft full": sft_full,
    "reward": reward,
    "ppo": ppo,
    "rollout": measure,
    "generate": answer,
    "forward": hidden_and_logits,
}
