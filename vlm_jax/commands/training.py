"""What the verbs that train share: where from, where to, how the optimizer goes, and which rank an adapter has."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.from_recipe import from_recipe

if TYPE_CHECKING:
    from vlm_jax.checkpoints.opening import Model
    from vlm_jax.config import LoraConfig
    from vlm_jax.train.optim import Optim


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """Options of every verb that trains. What is left out is the recipe's to say.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        out: Folder of the run.
        recipe: Where figures come from that are not given: a name of `vlm-jax recipe list`, or a TOML file; left out:
            the recipe of the checkpoint's preset.
        batch_size: Rows a step: conversations, pairs, or answers of a rollout.
        microbatches: Parts that a batch (with `ppo`: a minibatch, and the measuring of a rollout) is worked through in.
        learning_rate: Peak of the schedule.
        schedule: What comes after the warm-up: a cosine down to 0, or nothing.
        warmup: Until the peak: a share of the steps, or with `ppo` a number of rollouts.
        clip_norm: Largest norm of a gradient.
        weight_decay: Of AdamW.
        b2: Of AdamW.
        remat: What a backward pass keeps of each decoder block: everything, the matrix products, or the input alone.
        save_every: Steps between checkpoints.
        seed: Order of the data, all draws, and the adapter's start.
        preset: Refuse a checkpoint that is not this preset.
        mesh: Layout of the devices.
    """

    checkpoint: str
    out: Path
    recipe: str | None = None
    batch_size: int | None = from_recipe()
    microbatches: int | None = from_recipe()
    learning_rate: float | None = from_recipe()
    schedule: Literal["constant", "cosine"] | None = from_recipe()
    warmup: float | None = from_recipe()
    clip_norm: float | None = from_recipe()
    weight_decay: float | None = from_recipe()
    b2: float | None = from_recipe()
    remat: Literal["none", "dots", "block"] | None = from_recipe()
    save_every: int | None = from_recipe()
    seed: int = 0
    preset: str | None = None
    mesh: MeshOptions = MeshOptions()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewAdapter:
    """Options of the verbs that train an adapter from nothing.

    Attributes:
        lora_rank: Of the adapter.
        lora_alpha: Its updates are multiplied by alpha / rank.
    """

    lora_rank: int | None = from_recipe()
    lora_alpha: float | None = from_recipe()


def optim_of(options: Training, steps: int, warmup_steps: int) -> "Optim":
    """The optimizer of complete options.

    Args:
        options: With every figure filled in.
        steps: Updates of the run.
        warmup_steps: Of those, until the peak.
    """
    from vlm_jax.train.optim import Optim

    return Optim(
        options.learning_rate,
        steps=steps,
        warmup_steps=warmup_steps,
        schedule=options.schedule,
        clip_norm=options.clip_norm,
        weight_decay=options.weight_decay,
        b2=options.b2,
    )


def lora_of(options: NewAdapter) -> "LoraConfig":
    """The shape of the adapter of complete options."""
    from vlm_jax.config import LoraConfig

    return LoraConfig(options.lora_rank, options.lora_alpha)


def open_for_training(options: Training, adapter: Path | None = None) -> "Model":
    """The checkpoint of complete options, with what they say of the backward pass and of a new adapter.

    Args:
        options: With every figure filled in; a rank of 0 says that there is no new adapter.
        adapter: Folder of an adapter whose rank and alpha all others have.
    """
    from vlm_jax.checkpoints.opening import open_model

    model = open_model(options.checkpoint, options.mesh, options.preset, adapter)
    config = dataclasses.replace(model.config, remat=options.remat)
    if isinstance(options, NewAdapter) and options.lora_rank:
        config = dataclasses.replace(config, lora=lora_of(options))
    return dataclasses.replace(model, config=config)
