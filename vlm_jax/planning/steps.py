"""The package's own steps over shapes alone, laid out on devices that nobody has to own: to be traced, compiled and
counted.

A case is a step of a preset at the sizes of its recipe (facts included), over a kind of base.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from vlm_jax import recipes
from vlm_jax.arrays import Batch, PreferenceBatch, PromptBatch
from vlm_jax.config import PRESETS, LlavaConfig, LoraConfig
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.adapters import init_lora, init_value_head
from vlm_jax.models.llava import forward, init_llava, logits
from vlm_jax.models.quantize import quantize_base
from vlm_jax.parallel.compile import jit_step
from vlm_jax.parallel.mesh import batch_sharding, shardings
from vlm_jax.train.optim import Optim, TrainState, start
from vlm_jax.train.ppo import PpoSettings, Rollout, ppo_update, rollout
from vlm_jax.train.reward import RewardSettings, reward_scores, reward_step
from vlm_jax.train.sft import SftSettings, sft_step

OPTIM = Optim(1e-4, steps=1000, warmup_steps=30)
# Types and schemes of the frozen weights. Full fine-tuning trains them, so they cannot be quantised there.
BASES = ("bfloat16", "int8", "nf4", "nf4_double")

# Whose recipe says how large a step is. No recipe trains the projector alone, and no verb does: its rows are those of
# full fine-tuning.
_STAGES = {
    "sft projector": "sft-full",
    "sft lora": "sft-lora",
    "sft full": "sft-full",
    "reward": "reward",
    "rollout": "ppo",
    "ppo": "ppo",
    "score": "ppo",
    "generate": "answer",
    "forward": "sft-lora",
}


@functools.cache
def sizes_of(preset: str, step: str) -> Mapping[str, Any]:
    """What the recipe of a preset says of a step: options that decide shapes, and others.

    Raises:
        InputError: There is no such recipe.
    """
    figures = recipes.read(f"{preset}/{_STAGES[step]}").figures(facts=True)
    if step == "generate":
        return MappingProxyType(figures | {"max_length": max(figures["prompt_lengths"])})
    return MappingProxyType(figures)


@dataclasses.dataclass(frozen=True)
class Case:
    """One step of one preset over one kind of base; ``changes`` go before the recipe's figures."""

    preset: str
    step: str
    kind: str = "bfloat16"
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def config(self) -> LlavaConfig:
        """As the verbs make it of a checkpoint and a recipe."""
        config, sizes = PRESETS[self.preset], self.sizes
        if sizes.get("lora_rank"):
            config = dataclasses.replace(config, lora=LoraConfig(sizes["lora_rank"], sizes["lora_alpha"]))
        return dataclasses.replace(config, remat=sizes.get("remat", config.remat))

    @property
    def sizes(self) -> Mapping[str, Any]:
        return {**sizes_of(self.preset, self.step), **dict(self.changes)}


@dataclasses.dataclass(frozen=True)
class Step:
    """A jitted function and the shapes that it is called with, each where it lies on the mesh."""

    function: Callable
    arguments: tuple
    mesh: Mesh | AbstractMesh

    @functools.cached_property
    def traced(self) -> jax.stages.Traced:
        abstract = isinstance(self.mesh, AbstractMesh)
        context = jax.sharding.use_abstract_mesh if abstract else jax.set_mesh
        with context(self.mesh):
            return self.function.trace(*self.arguments)


@functools.cache
def step_of(case: Case, mesh: Mesh | AbstractMesh) -> Step:
    """The step as the verbs call it."""
    return Step(*MAKERS[case.step](Placed(case, mesh)), mesh)


def key_shape() -> Any:
    return jax.eval_shape(lambda: jax.random.key(0))


@functools.cache
def base_shapes(config: LlavaConfig, kind: str) -> Any:
    """Frozen weights as a checkpoint of this kind holds them."""

    def make():
        weights = jax.tree.map(lambda x: x.astype(jnp.bfloat16), init_llava(config, jax.random.key(0)))
        return weights if kind == "bfloat16" else quantize_base(weights, kind)

    return jax.eval_shape(make)


@functools.cache
def role_shapes(config: LlavaConfig) -> Any:
    """An adapter with a head."""
    return jax.eval_shape(lambda: {"lora": init_lora(config, jax.random.key(0)), "head": init_value_head(config)})


def by_rule(mesh: Mesh | AbstractMesh, tree: Any) -> Any:
    """The shapes of weights or a state where the table of rules puts them."""
    return jax.tree.map(_at, tree, shardings(mesh, tree))


def bytes_on_a_chip(tree: Any) -> int:
    """Of all the shapes of a tree, each of them placed or, as a key is, whole everywhere."""

    def share(leaf):
        shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
        return math.prod(shape) * leaf.dtype.itemsize

    return sum(map(share, jax.tree.leaves(tree)))


@dataclasses.dataclass(frozen=True)
class Placed:
    """A case's shapes on a mesh."""

    case: Case
    mesh: Mesh | AbstractMesh

    @property
    def config(self) -> LlavaConfig:
        return self.case.config

    @property
    def sizes(self) -> Mapping[str, Any]:
        return self.case.sizes

    @property
    def base(self) -> Any:
        return self.by_rule(base_shapes(PRESETS[self.case.preset], self.case.kind))

    @property
    def role(self) -> Any:
        return role_shapes(self.config)

    @property
    def lora(self) -> Any:
        return {"lora": self.role["lora"]}

    def by_rule(self, tree: Any) -> Any:
        return by_rule(self.mesh, tree)

    def by_rows(self, tree: Any) -> Any:
        """The shapes of a batch where ``place_batch`` puts it."""
        return jax.tree.map(lambda leaf: _at(leaf, batch_sharding(self.mesh)), tree)

    def state(self, params: Any) -> TrainState:
        return self.by_rule(jax.eval_shape(lambda params: start(OPTIM, params), params))

    def batch(self, rows: int, length: int) -> Batch:
        def shape(dtype, *more):
            return jax.ShapeDtypeStruct((rows, *more), dtype)

        side = self.config.vision.image_size
        masks = (shape(bool, length) for _ in range(3))
        return self.by_rows(Batch(shape(jnp.int32, length), *masks, shape(jnp.uint8, side, side, 3)))

    def texts(self, rows: int = 1) -> Batch:
        """``rows`` for each of the batch."""
        return self.batch(rows * self.sizes["batch_size"], self.sizes["max_length"])

    def per_row(self, dtype: Any, *more: int) -> Any:
        return self.by_rows(jax.ShapeDtypeStruct((self.sizes["batch_size"], *more), dtype))

    def prompts(self) -> PromptBatch:
        prompt = self.batch(self.sizes["batch_size"], self.sizes["prompt_length"])
        return PromptBatch(
            prompt=prompt,
            # As another resolution for the reward model makes it.
            reward_images=prompt.images,
            suffix_tokens=self.per_row(jnp.int32, self.sizes["suffix_length"]),
            suffix_mask=self.per_row(bool, self.sizes["suffix_length"]),
            length_bonus=self.per_row(jnp.float32),
            caption_type=self.per_row(jnp.int32),
            index=self.per_row(jnp.int32),
        )

    def ppo_settings(self) -> PpoSettings:
        """With all of the recipe's figures that it has a name for."""
        names = {field.name for field in dataclasses.fields(PpoSettings)}
        figures = {name: value for name, value in self.sizes.items() if name in names}
        return PpoSettings(OPTIM, sampling=Sampling(max_new_tokens=self.sizes["max_new_tokens"]), **figures)


def _at(leaf: Any, sharding: jax.sharding.NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, weak_type=leaf.weak_type, sharding=sharding)


def _sft(placed: Placed, base: Any, params: Any) -> tuple[Callable, tuple]:
    state = placed.state(params)
    settings = SftSettings(OPTIM, placed.sizes["microbatches"])
    step = jit_step(sft_step, placed.mesh, placed.config, settings, state=state)
    return step, (base, state, placed.texts())


def _sft_parts(placed: Placed, *parts: str) -> tuple[Callable, tuple]:
    """The base holds what is not trained alone."""
    rest = {name: part for name, part in placed.base.items() if name not in parts}
    return _sft(placed, rest, {"base": {part: placed.base[part] for part in parts}})


def _sft_projector(placed: Placed) -> tuple[Callable, tuple]:
    return _sft_parts(placed, "projector")


def _sft_lora(placed: Placed) -> tuple[Callable, tuple]:
    return _sft(placed, placed.base, placed.lora)


def _sft_full(placed: Placed) -> tuple[Callable, tuple]:
    return _sft_parts(placed, "projector", "language")


def _reward(placed: Placed) -> tuple[Callable, tuple]:
    state = placed.state(placed.role)
    settings = RewardSettings(OPTIM, microbatches=placed.sizes["microbatches"])
    step = jit_step(reward_step, placed.mesh, placed.config, settings, state=state)
    return step, (placed.base, state, PreferenceBatch(placed.texts(rows=2), placed.per_row(jnp.int32)))


def _rollout(placed: Placed) -> tuple[Callable, tuple]:
    """Both halves as one program, at the widest: the verb runs them one after the other, and measures no wider than the
    longest answer."""
    params = placed.by_rule({"policy": placed.lora, "value": placed.role})
    frozen = placed.by_rule({"reference": placed.lora, "reward": placed.role})
    sample = jax.jit(functools.partial(rollout, placed.config, placed.ppo_settings()))
    return sample, (placed.base, params, frozen, placed.prompts(), key_shape())


def measured(placed: Placed) -> Rollout:
    """Shapes of what the rollout gives, where it gives them to the update."""
    slots = placed.sizes["max_new_tokens"]
    floats = {
        name: placed.per_row(jnp.float32, slots)
        for name in ("log_probs", "sampler_log_probs", "reference_log_probs", "values")
    }
    return Rollout(
        sequences=placed.batch(placed.sizes["batch_size"], placed.sizes["prompt_length"] + slots),
        mask=placed.per_row(bool, slots),
        **floats,
        scores=placed.per_row(jnp.float32),
        ended=placed.per_row(bool),
        lengths=placed.per_row(jnp.int32),
        length_bonus=placed.per_row(jnp.float32),
    )


def _ppo(placed: Placed) -> tuple[Callable, tuple]:
    """The update, fed with what the rollout gives."""
    state = placed.state({"policy": placed.lora, "value": placed.role})
    update = jit_step(ppo_update, placed.mesh, placed.config, placed.ppo_settings(), state=state)
    return update, (placed.base, state, measured(placed), placed.per_row(jnp.float32), key_shape())


def _score(placed: Placed) -> tuple[Callable, tuple]:
    """A reward model that is not the policy's base, on one part of a rollout's answers."""
    sizes = placed.sizes
    rows = sizes["batch_size"] // sizes["microbatches"]
    answers = placed.batch(rows, sizes["prompt_length"] + sizes["max_new_tokens"] + sizes["suffix_length"])
    return jax.jit(functools.partial(reward_scores, placed.config)), (placed.base, placed.by_rule(placed.role), answers)


def _generate(placed: Placed) -> tuple[Callable, tuple]:
    sampling = Sampling(max_new_tokens=placed.sizes["max_new_tokens"], temperature=0.0)

    def run(base, lora, prompts, key):
        return generate(placed.config, base, lora, prompts, key, sampling)

    return jax.jit(run), (placed.base, placed.by_rule(placed.lora)["lora"], placed.texts(), key_shape())


def _hidden_and_logits(placed: Placed) -> tuple[Callable, tuple]:
    def run(base, lora, batch):
        hidden = forward(placed.config, base, lora, batch).hidden
        return hidden, logits(placed.config, base, hidden[:, -1:])

    return jax.jit(run), (placed.base, placed.by_rule(placed.lora)["lora"], placed.texts())


MAKERS: dict[str, Callable[[Placed], tuple[Callable, tuple]]] = {
    "sft projector": _sft_projector,
    "sft lora": _sft_lora,
    "sft full": _sft_full,
    "reward": _reward,
    "ppo": _ppo,
    "rollout": _rollout,
    "score": _score,
    "generate": _generate,
    "forward": _hidden_and_logits,
}
