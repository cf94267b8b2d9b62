"""Fine-tune a checkpoint on LLaVA-format conversations (a JSON list or JSON lines of {"image", "conversations"}).

`--trainable lora` trains an adapter and writes it to OUT/adapter in peft's format. `--trainable full` trains the
projector and all language weights (the vision tower stays frozen, as in LLaVA) and writes a whole checkpoint to
OUT/checkpoint. Figures that are left out are the recipe's (`vlm-jax recipe list`). The same command continues a run
that was stopped.
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from vlm_jax.commands.from_recipe import from_recipe, with_recipe
from vlm_jax.commands.milestones import check, held_out_rows, milestones_of
from vlm_jax.commands.training import (
    NewAdapter,
    Training,
    checked,
    open_for_training,
    optim_of,
    require_share,
)
from vlm_jax.ranges import Range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from vlm_jax.arrays import Batch, Params
    from vlm_jax.checkpoints.opening import Model
    from vlm_jax.data.packing import Packing
    from vlm_jax.data.sources import Instruction
    from vlm_jax.runs.held_out import Measure
    from vlm_jax.train.optim import Optim, TrainState


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Training, NewAdapter):
    """What the command takes.

    Attributes:
        data: Conversations.
        images: Folder that the rows' image names are relative to.
        trainable: An adapter, or projector and language model.
        epochs: Passes over the data.
        max_length: Positions of a conversation, image included; longer ones are cut at the right.
        best: Keep the adapter that was the best by this metric of the held-out rows, in OUT/best.
        batching: One conversation a row, the rest of which is `padded`; or several in a row of --max-length, each as
            if it were alone (`packed`): the same updates in fewer rows.
    """

    data: Path
    images: Path
    trainable: Literal["lora", "full"] = "lora"
    epochs: Annotated[float | None, Range(0, 1e6, open=True)] = from_recipe()
    max_length: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    best: Literal["loss"] | None = None
    batching: Literal["padded", "packed"] | None = from_recipe()


def run(options: Options) -> None:
    from vlm_jax.data.packing import packed_instruction_batches
    from vlm_jax.data.pipelines import instruction_batches, instruction_text
    from vlm_jax.data.sources import read_instructions
    from vlm_jax.parallel.compile import place
    from vlm_jax.parallel.local_rows import held_rows
    from vlm_jax.parallel.memory import require_training
    from vlm_jax.runs.begin import begin
    from vlm_jax.runs.loop import Pace, train
    from vlm_jax.runs.work import sft_work
    from vlm_jax.train.optim import start

    options = complete(options)
    result = options.out / ("adapter" if options.trainable == "lora" else "checkpoint")
    begun = begin(options, result, options.out / "run.json", options.checkpoint, without_effect=("batching",))
    if begun.finished():
        return
    read = functools.partial(read_instructions, images_folder=options.images, allow_outside=options.allow_outside)
    rows, others = read(options.data), held_out_rows(options, options.data, read)
    model = open_for_training(options, masters=options.trainable == "full")
    reading = model.tokenizer, model.config, model.template
    text_of, lengths = instruction_text(*reading, options.max_length), []
    records = checked(options, begun, rows, lambda record: lengths.append(len(text_of(record))))
    unseen = checked(options, begun, others, text_of) if others else []
    steps = max(1, round(options.epochs * len(records) / options.batch_size))
    optim = optim_of(options, steps, round(options.warmup * steps))
    sees = any(record.image is not None for record in records)
    frozen = without_trained(options, model, sees)
    packing = packing_of(options, model, records, lengths, steps)
    most = packing.shapes[-1] if packing else options.batch_size
    shape = most, options.max_length, parts_of_step(options, packing, most)
    require_training(frozen, *shape, lambda: first_weights(options, model, sees))
    stored = str(model.base["language"]["embedding"].dtype)
    state = place(model.mesh, start(optim, first_weights(options, model, sees)))
    # Nothing else holds what is trained: its first values give their memory back, or are the state's own.
    model = frozen
    held = functools.partial(held_rows, model.mesh)
    if packing:
        batches = packed_instruction_batches(records, *reading, packing, options.seed, held)
    else:
        batches = instruction_batches(records, *reading, options.batch_size, options.max_length, options.seed, held)
    count = sft_work(model.config, options.trainable)
    pace = Pace("sft", steps, options.save_every, count=count, profile=options.profile)
    milestones = milestones_of(options, lambda: measure(options, model, unseen), saver(model))
    step = step_of(options, model, optim, packing, state)
    state = train(begun, pace, model.mesh, state, step, batches, milestones)
    save(options, result, model, state.params, stored)
    print(result)


def complete(options: Options) -> Options:
    """With every figure filled in, and checked as far as options alone tell.

    Raises:
        InputError: A figure is out of its range, or belongs to the other kind of training.
    """
    from vlm_jax.errors import InputError, require_parts

    if options.trainable == "full" and (options.lora_rank, options.lora_alpha) != (None, None):
        raise InputError("--lora-rank or --lora-alpha with --trainable full", "--trainable lora")
    without = ("lora_rank", "lora_alpha") if options.trainable == "full" else ()
    options = with_recipe(options, f"sft-{options.trainable}", without=without)
    require_share(options)
    check(options, adapter=options.trainable == "lora")
    require_parts(options.batch_size, options.microbatches, "microbatches")
    return options


def packing_of(
    options: Options, model: "Model", records: "list[Instruction]", lengths: list[int], steps: int
) -> "Packing | None":
    """How conversations of these lengths are packed, if they are; says how much of the run is padding."""
    from vlm_jax.data.packing import planned
    from vlm_jax.parallel.local_rows import parts_of

    each = f"rows of {options.max_length} positions"
    if options.batching == "padded":
        share = 1 - sum(lengths) / (len(lengths) * options.max_length)
        print(f"{options.batch_size} {each} a step, {share:.0%} padding")
        return None
    illustrated = [record.image is not None for record in records]
    sizes = options.batch_size, options.max_length, options.microbatches, parts_of(model.mesh)
    packing, share = planned(lengths, illustrated, *sizes, steps, options.seed)
    print(f"{' or '.join(map(str, packing.shapes))} {each} a step, {share:.0%} padding")
    return packing


def parts_of_step(options: Options, packing: "Packing | None", rows: int) -> int:
    """Microbatches of a step of so many rows."""
    return packing.parts(rows) if packing else options.microbatches


def step_of(
    options: Options, model: "Model", optim: "Optim", packing: "Packing | None", state: "TrainState"
) -> "Callable[[TrainState, Batch], Any]":
    """(state, batch) -> (state, metrics); compiled for each number of rows."""
    import jax

    from vlm_jax.parallel.compile import jit_step
    from vlm_jax.train.sft import SftSettings, sft_step

    # Shapes alone: the state itself is donated.
    shapes = jax.eval_shape(lambda: state)

    @functools.cache
    def in_parts(parts: int) -> "Callable":
        return jit_step(sft_step, model.mesh, model.config, SftSettings(optim, parts), state=shapes)

    def step(state: "TrainState", batch: "Batch") -> Any:
        return in_parts(parts_of_step(options, packing, len(batch.tokens)))(model.base, state, batch)

    return step


def trained_parts(options: Options, sees: bool) -> tuple[str, ...]:
    """Parts of the base that are trained; of rows without any image the projector learns nothing."""
    if options.trainable == "lora":
        return ()
    return ("projector", "language") if sees else ("language",)


def without_trained(options: Options, model: "Model", sees: bool) -> "Model":
    """The model with what stays frozen alone."""
    parts = trained_parts(options, sees)
    return dataclasses.replace(model, base={name: part for name, part in model.base.items() if name not in parts})


def first_weights(options: Options, model: "Model", sees: bool) -> "Params":
    """What is trained, as it is before the first step: an adapter of its own, or the base's very arrays.

    Raises:
        InputError: The base is quantised and all weights are to be trained.
    """
    from vlm_jax.errors import InputError
    from vlm_jax.models.adapters import init_lora
    from vlm_jax.models.quantize import has_quantized
    from vlm_jax.randomness import key_for

    if options.trainable == "lora":
        return {"lora": init_lora(model.config, key_for(options.seed, "lora"))}
    if has_quantized(model.base):
        raise InputError("a quantised base", "--trainable lora, or a base that is not", file=options.checkpoint)
    return {"base": {part: model.base[part] for part in trained_parts(options, sees)}}


def measure(options: Options, model: "Model", records: "Sequence[Instruction]") -> "Measure":
    """The loss on held-out conversations, as many at a time as a step's parts have where devices divide them."""
    from vlm_jax.data.pipelines import instruction_batches
    from vlm_jax.parallel.local_rows import held_rows, parts_of
    from vlm_jax.runs.held_out import conversation_loss

    part = options.batch_size // options.microbatches
    size = options.batch_size if part % parts_of(model.mesh) else part
    reading, held = (model.tokenizer, model.config, model.template), functools.partial(held_rows, model.mesh)
    batches = instruction_batches(records, *reading, size, options.max_length, options.seed, held)
    return conversation_loss(model, batches, len(records), size)


def saver(model: "Model") -> "Callable[[Path, Params, Mapping[str, Any]], None]":
    """Writes what is trained as an adapter."""
    from vlm_jax.checkpoints.adapters import save_adapter

    return lambda folder, params, notes: save_adapter(folder, model.config, params, notes=notes)


def save(options: Options, result: Path, model: "Model", params: dict[str, Any], stored: str) -> None:
    """An adapter, or a whole checkpoint in the type that the base was stored in."""
    import jax

    from vlm_jax.checkpoints.adapters import save_adapter
    from vlm_jax.checkpoints.hf_llava import save_llava
    from vlm_jax.checkpoints.opening import checkpoint_folder
    from vlm_jax.data.chat_template import ended_by
    from vlm_jax.parallel.on_host import on_first_host
    from vlm_jax.train.sft import overlay

    if options.trainable == "lora":
        save_adapter(result, model.config, params)
        return
    base = overlay(model.base, params["base"])
    if jax.process_count() > 1:
        base = on_first_host(base)
    if jax.process_index():
        return
    # Where answers end now, whatever the checkpoint's files said before.
    config = ended_by(model.config, model.template)
    save_llava(result, config, base, checkpoint_folder(options.checkpoint), stored)
