"""What the verbs that train share: where from, where to, how the optimizer goes, and which rank an adapter has."""

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.from_recipe import from_recipe
from vlm_jax.parallel.hosts import HostOptions
from vlm_jax.ranges import LARGEST_COUNT, LARGEST_SEED, Range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from vlm_jax.checkpoints.opening import Model
    from vlm_jax.config import LoraConfig
    from vlm_jax.data.checks import AnyRecord
    from vlm_jax.runs.begin import Run
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
        unroll: Compile every block by itself in place of one for all: minutes of compiling, and faster steps on GPUs.
        save_every: Steps between checkpoints.
        keep_every: Keep the adapter as it is after every so many steps, in OUT/kept/STEP.
        evaluate_every: Steps between evaluations on rows that are not trained on; the last step is one as well.
        held_out_file: Those rows, in the layout and with the images of the ones that are trained on.
        profile: Write a trace of so many steps to OUT/profile, for TensorBoard, XProf or Perfetto.
        drop_long: Leave rows out that do not fit, and say how many; without, such a row is refused. A conversation that
            is only longer than the limit is cut at its right end, as LLaVA does: what does not fit is a prompt, an
            evaluation turn, an image, or a conversation of which no answer would be left.
        allow_outside: Images may lie outside --images, where names or links lead out of it.
        seed: Order of the data, all draws, and the adapter's start.
        preset: Refuse a checkpoint that is not this preset.
        like: `transformers` trains on pictures and prompts as its processor makes them from the checkpoint's own files;
            `llava` on what LLaVA's training had. Left out: as the adapter that is gone on from was trained, else as the
            checkpoint says, which is mostly `llava`.
        dtype: Arithmetic; left out, the checkpoint's own.
        attention: What computes it: `auto` is cuDNN's kernel on GPUs, Pallas' on TPUs, XLA elsewhere and in float32.
        mesh: Layout of the devices.
        hosts: Several processes, one a host.
    """

    checkpoint: str
    out: Path
    recipe: str | None = None
    batch_size: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    microbatches: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    learning_rate: Annotated[float | None, Range(0, 10, open=True)] = from_recipe()
    schedule: Literal["constant", "cosine"] | None = from_recipe()
    warmup: Annotated[float | None, Range(0, 1e6)] = from_recipe()
    clip_norm: Annotated[float | None, Range(0, 1e9, open=True)] = from_recipe()
    weight_decay: Annotated[float | None, Range(0, 10)] = from_recipe()
    b2: Annotated[float | None, Range(0, 0.999999)] = from_recipe()
    remat: Literal["none", "dots", "block"] | None = from_recipe()
    unroll: bool = False
    save_every: Annotated[int | None, Range(1, LARGEST_COUNT)] = from_recipe()
    keep_every: Annotated[int | None, Range(1, LARGEST_COUNT)] = None
    evaluate_every: Annotated[int | None, Range(1, LARGEST_COUNT)] = None
    held_out_file: Path | None = None
    profile: Annotated[int | None, Range(1, 1000)] = None
    drop_long: bool = False
    allow_outside: bool = False
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    preset: str | None = None
    like: Literal["llava", "transformers"] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    mesh: MeshOptions = MeshOptions()
    hosts: HostOptions = HostOptions()


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewAdapter:
    """Options of the verbs that train an adapter from nothing.

    Attributes:
        lora_rank: Of the adapter.
        lora_alpha: Its updates are multiplied by alpha / rank.
    """

    lora_rank: Annotated[int | None, Range(1, 1 << 14)] = from_recipe()
    lora_alpha: Annotated[float | None, Range(0, 1e6, open=True)] = from_recipe()


def require_share(options: Training) -> None:
    """Raises:
    InputError: The warm-up is no share of the steps.
    """
    from vlm_jax.errors import InputError

    if options.warmup > 1:
        raise InputError(f"--warmup {options.warmup:g}", "a share of the steps, from 0 to 1")


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


def open_for_training(options: Training, adapter: Path | None = None, masters: bool = False) -> "Model":
    """The checkpoint of complete options, with what they say of the backward pass and of a new adapter.

    Args:
        options: With every figure filled in; without a rank there is no new adapter.
        adapter: Folder of an adapter whose rank and alpha all others have.
        masters: Whether the base itself is trained; see ``open_model``.
    """
    from vlm_jax.checkpoints.opening import open_model

    how = {"dtype": options.dtype, "attention": options.attention, "like": options.like, "masters": masters}
    model = open_model(options.checkpoint, options.mesh, options.preset, adapter, **how)
    config = dataclasses.replace(model.config, remat=options.remat, unroll=options.unroll)
    if isinstance(options, NewAdapter) and options.lora_rank is not None:
        config = dataclasses.replace(config, lora=lora_of(options))
    return dataclasses.replace(model, config=config)


def checked(
    options: Training, begun: "Run", records: "Sequence[AnyRecord]", encode: "Callable[[AnyRecord], Any]"
) -> "list[AnyRecord]":
    """All rows looked at before the first step, the pictures as well unless a run goes on.

    Args:
        options: Whether rows that are too long are left out.
        begun: The run.
        records: All rows.
        encode: Raises where a row's texts do not fit.

    Raises:
        InputError: A row cannot be used; names it.
    """
    import jax

    from vlm_jax.data.checks import check_images, fitting
    from vlm_jax.errors import InputError
    from vlm_jax.runs.progress import Meter

    # Not resolve(), which fails on links in a circle.
    if os.path.realpath(options.out) == os.path.realpath(options.images):
        raise InputError("--out in the folder of the images", "a folder of the run's own", file=str(options.out))

    with Meter("rows", len(records)) as meter:
        kept = fitting(records, encode, options.drop_long, meter.update)
    if len(kept) < len(records):
        print(f"{len(records) - len(kept)} of {len(records)} rows are too long and left out")
    if not any(record.image for record in kept):
        print(f"none of {len(kept)} rows shows a picture")
    if not begun.started:
        # Texts are few bytes, and all processes have to agree on what is left out; pictures each looks at a share of.
        share = kept[jax.process_index() :: jax.process_count()]
        with Meter("pictures", len({record.image for record in share} - {None})) as meter:
            check_images(share, meter.update)
    return kept
