"""The optimizer, described by a hashable record so that a step can take it as a static argument."""

import dataclasses
from collections.abc import Callable
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from vlm_jax.arrays import Params


@dataclasses.dataclass(frozen=True)
class Optim:
    """AdamW with a clip of the global gradient norm and a warm-up.

    ``steps`` is the length of the cosine decay to 0 and is not used by the constant schedule.
    """

    learning_rate: float
    steps: int = 1
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine"] = "cosine"
    clip_norm: float = 1.0
    weight_decay: float = 0.0
    b2: float = 0.999

    def rate(self, step: Int32[Array, ""] | int) -> Array:
        """The learning rate of a step, counted from 0."""
        if self.schedule == "constant":
            # optax's own schedule without a warm-up stays at its first value, 0.
            ramp = jnp.minimum(step / self.warmup_steps, 1.0) if self.warmup_steps else jnp.ones(())
            return self.learning_rate * ramp
        warmup = min(self.warmup_steps, self.steps - 1)
        return optax.warmup_cosine_decay_schedule(0.0, self.learning_rate, warmup, self.steps)(step)

    def transform(self) -> optax.GradientTransformation:
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.adamw(self.rate, b2=self.b2, weight_decay=self.weight_decay),
        )


@flax.struct.dataclass
class TrainState:
    """What a step changes. ``params`` is whatever is trained: ``{"base": subtree}`` or roles of adapters and heads."""

    params: Params
    optimizer: optax.OptState
    step: Int32[Array, ""]


def start(optim: Optim, params: Params) -> TrainState:
    """The state before the first step. Parameters become float32, whatever the file held: bf16 loses small updates."""
    params = jax.tree.map(lambda x: x.astype(jnp.float32), params)
    return TrainState(params=params, optimizer=optim.transform().init(params), step=jnp.zeros((), jnp.int32))


def apply_gradients(optim: Optim, state: TrainState, gradients: Params) -> tuple[TrainState, dict[str, Array]]:
    """One optimizer step; reports the gradient norm before clipping and the learning rate used."""
    updates, optimizer = optim.transform().update(gradients, state.optimizer, state.params)
    metrics = {"gradient_norm": optax.tree.norm(gradients), "learning_rate": optim.rate(state.step)}
    params = optax.apply_updates(state.params, updates)
    return TrainState(params=params, optimizer=optimizer, step=state.step + 1), metrics


def summed(function: Callable[[Any], Any], parts: Any) -> Any:
    """Sum of ``function(part)`` over the leading axis of ``parts``, one part at a time and in the memory of one."""
    first = jax.tree.map(lambda x: x[0], parts)
    if len(jax.tree.leaves(parts)[0]) == 1:
        # No sum, and no second copy of the gradients to add it up in.
        return function(first)

    def add(total, part):
        return jax.tree.map(jnp.add, total, function(part)), None

    one = jax.eval_shape(function, first)
    return jax.lax.scan(add, jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), one), parts)[0]


def split_rows(tree: Any, parts: int) -> Any:
    """[b, ...] leaves to [parts, b / parts, ...], strided so that each device's rows stay on it."""
    return jax.tree.map(lambda x: jnp.swapaxes(x.reshape(-1, parts, *x.shape[1:]), 0, 1), tree)


def join_rows(tree: Any) -> Any:
    """The inverse of :func:`split_rows`: [parts, b / parts, ...] leaves to [b, ...]."""
    return jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]), tree)
