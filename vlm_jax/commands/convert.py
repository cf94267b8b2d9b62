"""Turn a LLaVA-family torch checkpoint into our own layout, tensor by tensor, also quantised.

Reads transformers' layout (all of its names), the original LLaVA layout (v0, v1, 1.5, LLaVA-RLHF's sft_model) with or
without its vision tower, a plain LLaMA or Vicuna with a mm_projector.bin, and delta weights over a LLaMA. The result is
a folder for every `--checkpoint`. A conversion that was killed goes on when the same command is given again.
An adapter of peft (also LLaVA-RLHF's, with its reward or value head) becomes one for `--adapter` or `--reward`.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vlm_jax.config import TemplateName


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        source: Folder of the checkpoint.
        target: A new folder.
        vision: Folder of the CLIP (full or vision tower alone) that an original checkpoint leaves out.
        projector: mm_projector.bin or non_lora_trainables.bin that brings or replaces the projector.
        base: Folder of the LLaMA that delta weights are added to.
        tokenizer: Folder of the tokenizer; that of the checkpoint without.
        template: How conversations with the model are written out, where neither its config nor its tokenizer says;
            `chat` is the tokenizer's own template.
        dtype: Type of the weights that are not quantised; each keeps its own without.
        quantize: Store the decoder blocks' projections in 8 bits a weight (by column), in 4.5 (NF4, blocks of 64) or in
            4.1 (NF4 with 8-bit magnitudes).
    """

    source: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    vision: Path | None = None
    projector: Path | None = None
    base: Path | None = None
    tokenizer: Path | None = None
    template: TemplateName | None = None
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    quantize: Literal["int8", "nf4", "nf4_double"] | None = None


def run(options: Options) -> None:
    from vlm_jax.checkpoints.convert import convert
    from vlm_jax.checkpoints.export import export_adapter
    from vlm_jax.checkpoints.hf_config import check_config
    from vlm_jax.checkpoints.native import CONFIG_FILE
    from vlm_jax.checkpoints.peft_files import is_adapter
    from vlm_jax.checkpoints.sources import open_source
    from vlm_jax.checkpoints.tensor_files import weight_files
    from vlm_jax.checkpoints.tokenizer_files import tokenizer_files
    from vlm_jax.data.tokenizers import load_tokenizer
    from vlm_jax.errors import InputError
    from vlm_jax.files import read_json
    from vlm_jax.runs.progress import Meter

    if not options.source.is_dir():
        found = "a file" if options.source.exists() else "no such folder (nothing is downloaded)"
        wanted = "a checkpoint's folder, with config.json and weights of safetensors or torch (GGUF is not read)"
        raise InputError(found, wanted, file=str(options.source))
    if (options.source / CONFIG_FILE).exists():
        wanted = "the checkpoint that it was made from, or what vlm-jax export makes of it"
        raise InputError("a checkpoint in our own layout, converted already", wanted, file=str(options.source))
    if is_adapter(options.source):
        _refuse_options(options)
        export_adapter(options.source, options.target, "llava")
        print(options.target)
        return
    # First of all: hours of converting are lost where nobody can write to the result.
    read_json(options.source / "config.json")
    check_config(options.source)
    weight_files(options.source)
    folder = options.tokenizer or options.source
    tokenizer_files(folder)
    tokenizer = load_tokenizer(folder)
    source = open_source(options.source, options.vision, options.projector, options.base, tokenizer, options.template)
    for remark in source.remarks:
        print(f"note: {remark}")
    mebibytes = 2**20
    total = sum(path.stat().st_size for path in source.files) // mebibytes
    done = 0
    with Meter("convert (MiB)", total) as meter:

        def step(size: int) -> None:
            nonlocal done
            done += size
            meter.update(min(done // mebibytes, total))

        rows = convert(source, options.target, folder, options.dtype, options.quantize, step)
    report(rows)
    print(options.target)


def _refuse_options(options: Options) -> None:
    """An adapter has none of what the options speak of."""
    from vlm_jax.errors import InputError

    names = ("vision", "projector", "base", "tokenizer", "template", "dtype", "quantize")
    if odd := [f"--{name}" for name in names if getattr(options, name) is not None]:
        wanted = "none of them (vlm-jax merge adds an adapter to its base)"
        raise InputError(f"{', '.join(odd)} for an adapter", wanted, file=str(options.source))


def report(rows: list[dict]) -> None:
    """The error of quantising the weights."""
    if errors := [row for row in rows if "relative_rms" in row]:
        worst = max(errors, key=lambda row: row["relative_rms"])
        mean = sum(row["relative_rms"] for row in errors) / len(errors)
        print(
            f"quantised {len(errors)} tensors: error {100 * mean:.2f} % of their root mean square, at most "
            f"{100 * worst['relative_rms']:.2f} % ({worst['tensor']}); all of them in quantization.json"
        )
