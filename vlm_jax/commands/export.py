"""Write a base or an adapter in the files that torch people have.

A base (`tiny`, our own layout or transformers') becomes a checkpoint in transformers' layout or in the original LLaVA
one. An adapter (as training here or peft wrote it, also LLaVA-RLHF's) becomes peft files for either class.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        source: Folder of a checkpoint or an adapter, or `tiny`.
        target: A new folder.
        layout: `hf` transformers' LLaVA, `llava` the original code's, `peft` an adapter.
        dtype: Type of the stored weights; each keeps its own without.
        vision_tower: What the original config calls its CLIP; OpenAI's ViT-L/14 are known by their shapes.
        peft_class: Class that peft will load the adapter on: the original LLaVA or transformers', which it is without.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="SOURCE")]
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    layout: Literal["hf", "llava", "peft"] = "hf"
    dtype: Literal["float32", "bfloat16", "float16"] | None = None
    vision_tower: str | None = None
    peft_class: Literal["llava", "hf"] | None = None


def run(options: Options) -> None:
    from vlm_jax.checkpoints.export import export, export_adapter
    from vlm_jax.checkpoints.native import layout_before
    from vlm_jax.checkpoints.opening import checkpoint_folder, map_base
    from vlm_jax.checkpoints.peft_files import is_adapter
    from vlm_jax.checkpoints.vocabulary import text_rows
    from vlm_jax.errors import InputError

    folder = checkpoint_folder(options.source)
    _refuse_options(options)
    if options.layout != "peft" and is_adapter(folder):
        raise InputError("an adapter", "--layout peft", file=str(folder))
    if options.layout == "peft":
        export_adapter(folder, options.target, options.peft_class or "hf")
    else:
        config, base = map_base(folder)
        if options.layout == "llava" and (rows := text_rows(config)) < config.language.vocab_size:
            last = config.language.vocab_size - 1
            print(f"note: rows {rows} to {last} of the token tables, from the image token on, are left out")
        # Of weights that nobody trained here, in the layout that they came in, the processor goes along as it was.
        whose = {"keeps_processor": layout_before(folder) == "hf"} if options.layout == "hf" else {}
        export(options.target, options.layout, config, base, folder, options.dtype, options.vision_tower, **whose)
    print(options.target)


def _refuse_options(options: Options) -> None:
    from vlm_jax.errors import InputError

    speaks_of = {"hf": ("dtype",), "llava": ("dtype", "vision_tower"), "peft": ("peft_class",)}
    others = {name for names in speaks_of.values() for name in names} - set(speaks_of[options.layout])
    if given := [name for name in sorted(others) if getattr(options, name) is not None]:
        names = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise InputError(f"{names} with --layout {options.layout}", "an option of that layout")
