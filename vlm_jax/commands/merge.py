"""Add an adapter into its base and say what that did to the logits.

The result is a folder in our own layout, for `--checkpoint` or for `vlm-jax export`. In bfloat16 small updates are
rounded away: read the report, and keep base and adapter apart where you can.
"""

import dataclasses
import math
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.checkpoints.opening import MeshOptions

if TYPE_CHECKING:
    import numpy as np

    from vlm_jax.arrays import Params
    from vlm_jax.config import LlavaConfig


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
    from vlm_jax.checkpoints.adapters import load_projector
    from vlm_jax.checkpoints.merge import logit_change, write_merged
    from vlm_jax.checkpoints.opening import checkpoint_folder, map_base, source_of
    from vlm_jax.files import refuse_existing

    refuse_existing(options.target)
    folder = checkpoint_folder(options.checkpoint)
    # One base at a time on the devices: the two of the report may not fit beside each other.
    config, lora, apart = _base_and_adapter(options)
    origin = source_of(options.checkpoint)
    source = {"path": origin.source, "layout": "merged", "sha256": origin.sha256, "adapter": str(options.adapter)}
    base = map_base(folder)[1]
    if (projector := load_projector(options.adapter, config)) is not None:
        base = {**base, "projector": projector}
    write_merged(options.target, config, base, lora, folder, source)
    change = logit_change(apart, _merged_logits(options))
    if not math.isfinite(change.largest):
        # Of finite weights, in an arithmetic that is too narrow for them.
        kind = options.dtype or config.dtype
        print(
            f"warning: logits in {kind} are not finite, so nothing is known of what merging changed\n{options.target}"
        )
        return
    print(
        f"merging changed the logits ({options.dtype or config.dtype}) by {change.mean:.2g} on average and "
        f"{change.largest:.2g} at most (their standard deviation is {change.spread:.2g}); the likeliest token stayed "
        f"at {100 * change.same_choice:.1f} % of the positions\n{options.target}"
    )


def _base_and_adapter(options: Options) -> tuple["LlavaConfig", "Params", "np.ndarray"]:
    """The config as stored, the adapter and the logits of both together."""
    from vlm_jax.checkpoints.merge import probe_logits
    from vlm_jax.checkpoints.opening import open_model, open_policy
    from vlm_jax.errors import InputError
    from vlm_jax.models.quantize import has_quantized

    # As stored: the probe may compute in more bits than the checkpoint says.
    model = open_model(options.checkpoint, options.mesh, adapter=options.adapter, masters=True)
    if has_quantized(model.base):
        raise InputError("a quantised base", "the checkpoint that it was made from", file=options.checkpoint)
    lora = open_policy(model, options.adapter)
    return model.config, lora, probe_logits(_computing(model.config, options.dtype), model.base, lora)


def _merged_logits(options: Options) -> "np.ndarray":
    from vlm_jax.checkpoints.merge import probe_logits
    from vlm_jax.checkpoints.opening import open_model

    model = open_model(str(options.target), options.mesh, masters=True)
    return probe_logits(_computing(model.config, options.dtype), model.base, None)


def _computing(config: "LlavaConfig", dtype: str | None) -> "LlavaConfig":
    return config if dtype is None else dataclasses.replace(config, dtype=dtype)
