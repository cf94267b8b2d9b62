"""Fine-tune a checkpoint on LLaVA-format conversations (a JSON list or JSON lines of {"image", "conversations"}).

`--trainable lora` trains an adapter and writes it to OUT/adapter in peft's format. `--trainable full` trains the
projector and all language weights (the vision tower stays frozen, as in LLaVA) and writes a whole checkpoint to
OUT/checkpoint. The same command continues a run that was stopped.
"""

import dataclasses
from pathlib import Path
from typing import Literal

from vlm_jax.checkpoints.opening import MeshOptions


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        data: Conversations.
        images: Folder that the rows' image names are relative to.
        out: Folder of the run.
        trainable: An adapter, or projector and language model.
        epochs: Passes over the data.
        batch_size: Conversations a step.
        microbatches: Parts that a batch is worked through in.
        max_length: Positions of a conversation, image included; longer ones are cut at the right.
        learning_rate: Peak of the cosine schedule.
        warmup: Share of the steps until the peak.
        save_every: Steps between checkpoints.
        seed: Order of the data, and the adapter's start.
        preset: Refuse a checkpoint that is not this preset.
        mesh: Layout of the devices.
    """

    checkpoint: str
    data: Path
    images: Path
    out: Path
    trainable: Literal["lora", "full"] = "lora"
    epochs: float = 1.0
    batch_size: int = 32
    microbatches: int = 1
    max_length: int = 160
    learning_rate: float = 1e-4
    warmup: float = 0.03
    save_every: int = 200
    seed: int = 0
    preset: str | None = None
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    import jax
    import jax.numpy as jnp

    from vlm_jax.checkpoints.adapters import save_adapter
    from vlm_jax.checkpoints.hf_llava import save_llava
    from vlm_jax.checkpoints.opening import checkpoint_folder, open_model
    from vlm_jax.data.pipelines import instruction_batches
    from vlm_jax.data.sources import read_instructions
    from vlm_jax.errors import InputError, require_parts, require_positive
    from vlm_jax.models.adapters import init_lora
    from vlm_jax.models.quantize import has_quantized
    from vlm_jax.parallel.compile import jit_step, place
    from vlm_jax.randomness import key_for
    from vlm_jax.runs.begin import begin
    from vlm_jax.runs.loop import Pace, train
    from vlm_jax.train.optim import Optim, start
    from vlm_jax.train.sft import SftSettings, overlay, sft_step

    result = options.out / ("adapter" if options.trainable == "lora" else "checkpoint")
    require_positive(options, "epochs", "batch_size", "microbatches", "max_length", "save_every")
    begun = begin(options, result, options.out / "run.json", options.checkpoint)
    if begun.finished():
        return
    require_parts(options.batch_size, options.microbatches, "microbatches")
    records = read_instructions(options.data, options.images)
    model = open_model(options.checkpoint, options.mesh, options.preset)
    if options.trainable == "full" and has_quantized(model.base):
        raise InputError("a quantised base", "--trainable lora, or a base that is not", file=options.checkpoint)
    config = model.config
    steps = max(1, round(options.epochs * len(records) / options.batch_size))
    optim = Optim(options.learning_rate, steps=steps, warmup_steps=round(options.warmup * steps))
    if options.trainable == "lora":
        params = {"lora": init_lora(config, key_for(options.seed, "lora"))}
    else:
        # Copies: the state's buffers are donated, the base's must stay.
        trained = {part: model.base[part] for part in ("projector", "language")}
        params = {"base": jax.tree.map(jnp.copy, trained)}
    state = place(model.mesh, start(optim, params))
    settings = SftSettings(optim, options.microbatches)
    batches = instruction_batches(
        records, model.tokenizer, config, model.template, options.batch_size, options.max_length, options.seed
    )
    step = jit_step(sft_step, model.mesh, config, settings, state=state)
    pace = Pace("sft", steps, options.save_every)
    state = train(begun, pace, model.mesh, state, lambda state, batch: step(model.base, state, batch), batches)
    if options.trainable == "lora":
        save_adapter(result, config, state.params)
    else:
        base = overlay(model.base, state.params["base"])
        stored = str(model.base["language"]["embedding"].dtype)
        save_llava(result, config, base, checkpoint_folder(options.checkpoint), stored)
    print(result)
