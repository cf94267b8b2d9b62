"""What a step of each kind of training works through, counted on the host before its batch goes to the devices."""

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np

from vlm_jax.arrays import Batch, PreferenceBatch, PromptBatch
from vlm_jax.config import LlavaConfig
from vlm_jax.planning import flops
from vlm_jax.planning.chips import Number


@dataclasses.dataclass(frozen=True)
class Work:
    """Of a step or several.

    Attributes:
        samples: Conversations, pairs, or answers of a rollout.
        tokens: Real positions, pictures' included; each once, however often it is read.
        positions: The same with padding; 0 where it is not known.
        model_flops, hardware_flops: See ``planning.flops``; 0 where they are not known.
    """

    samples: Number = 0
    tokens: Number = 0
    positions: Number = 0
    model_flops: Number = 0
    hardware_flops: Number = 0

    def __add__(self, other: "Work") -> "Work":
        return Work(*(one + two for one, two in zip(self._values, other._values, strict=True)))

    def times(self, factor: Number) -> "Work":
        return Work(*(factor * value for value in self._values))

    @property
    def _values(self) -> tuple[Number, ...]:
        return dataclasses.astuple(self)


# A batch on the host -> its work, once the metrics of its step are known.
Count = Callable[[Any], Callable[[Mapping[str, float]], Work]]


def sft_work(config: LlavaConfig, trainable: Literal["lora", "full"]) -> Count:
    """Of batches of conversations; logits are those of all positions."""

    def count(batch: Batch) -> Callable[[Mapping[str, float]], Work]:
        samples = len(batch.tokens) if batch.segments is None else len(flops.text_lengths(batch.segments))
        work = _trained(config, batch, samples, trainable, logits=True)
        return lambda _: work

    return count


def reward_work(config: LlavaConfig) -> Count:
    """Of batches of pairs; a score needs no logits."""

    def count(pairs: PreferenceBatch) -> Callable[[Mapping[str, float]], Work]:
        work = _trained(config, pairs.batch, len(pairs.choice), "lora", logits=False)
        return lambda _: work

    return count


def _trained(
    config: LlavaConfig, batch: Batch, samples: int, trainable: Literal["lora", "full"], *, logits: bool
) -> Work:
    read = flops.real(config, batch.attention_mask, batch.image_mask, batch.segments)
    given = flops.padded(*batch.tokens.shape, math.prod(batch.images.shape[:-3]))
    hardware = sum(part(config, given, logits * given.tokens, trainable) for part in (flops.training, flops.recomputed))
    model = flops.training(config, read, logits * read.tokens, trainable)
    return Work(samples, read.tokens, given.tokens, model, hardware)


def ppo_work(config: LlavaConfig, epochs: int) -> Count:
    """Of batches of prompts: how long their answers are is a metric of the step. Up to where the devices work through
    padding is decided on the way, so there are no positions and no hardware FLOPs."""

    def count(batch: PromptBatch) -> Callable[[Mapping[str, float]], Work]:
        prompts = flops.real(config, batch.prompt.attention_mask, batch.prompt.image_mask)
        rows, suffix = len(batch.index), float(np.sum(batch.suffix_mask))

        def work(metrics: Mapping[str, float]) -> Work:
            length = metrics["length"]
            needed = flops.rollout_and_update(config, prompts, suffix, rows, length, epochs)
            return Work(samples=rows, tokens=prompts.tokens + rows * length, model_flops=needed)

        return work

    return count
