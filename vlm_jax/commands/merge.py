"""Add an adapter into its base and say what that did to the logits.

The result is a folder in our own layout, for `--checkpoint` or for `vlm-jax export`. In bfloat16 small updates are
rounded away: read the report, and keep base and adapter apart where you can.
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vlm_jax.checkpoints.opening import MeshOptions


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder of the base, or `tiny`.
        adapter: Folder of the adapter.
        target: A new folder.
        dtype: Arithmetic of the report; the checkpoint's own without.
        mesh: Layout of the devices that compute the report.
    """

    checkpoint: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="CHECKPOINT")]
    adapter: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="ADAPTER")]
    target: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="TARGET")]
    dtype: Literal["float32", "bfloat16"] | None = None
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    from vlm_jax.checkpoints.merge import logit_change, write_merged
    from vlm_jax.checkpoints.opening import checkpoint_folder, map_base, open_model, open_policy, source_of
    from vlm_jax.errors import InputError
    from vlm_jax.models.quantize import has_quantized

    folder = checkpoint_folder(options.checkpoint)
    model = open_model(options.checkpoint, options.mesh, adapter=options.adapter)
    if has_quantized(model.base):
        raise InputError("a quantised base", "the checkpoint that it was made from", file=str(folder))
    lora = open_policy(model, options.adapter)
    origin = source_of(options.checkpoint)
    source = {"path": origin.source, "layout": "merged", "sha256": origin.sha256, "adapter": str(options.adapter)}
    write_merged(options.target, model.config, map_base(folder)[1], lora, folder, source)
    config = model.config if options.dtype is None else dataclasses.replace(model.config, dtype=options.dtype)
    merged = open_model(str(options.target), options.mesh).base
    change = logit_change(config, model.base, lora, merged)
    print(
        f"merging changed the logits ({config.dtype}) by {change.mean:.2g} on average and {change.largest:.2g} at most "
        f"(their standard deviation is {change.spread:.2g}); the likeliest token stayed at "
        f"{100 * change.same_choice:.1f} % of the positions\n{options.target}"
    )
