"""An adapter added into its base, layer by layer, and what that did to the logits."""

import functools
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from vlm_jax.arrays import Batch, Params
from vlm_jax.checkpoints.finite import not_finite
from vlm_jax.checkpoints.native import WEIGHTS_FILE, NativeInfo, NativeWriter, base_shapes, leaves_of, write_info
from vlm_jax.checkpoints.tokenizer_files import copy_processor
from vlm_jax.config import LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.files import new_folder
from vlm_jax.models.adapters import merged_kernel
from vlm_jax.models.llava import forward, logits

_PROBE_ROWS, _PROBE_TEXT = 4, 24


class LogitChange(NamedTuple):
    """Of merging, over all positions of the probe: absolute changes of the logits, and how the choice of word changed.

    Attributes:
        largest: Maximum.
        mean: Mean.
        spread: Standard deviation of the logits themselves, to compare with.
        same_choice: Share of positions whose likeliest token stays.
    """

    largest: float
    mean: float
    spread: float
    same_choice: float


def write_merged(
    folder: Path, config: LlavaConfig, base: Params, lora: Params, checkpoint: Path | None, source: dict[str, str]
) -> None:
    """Write base and adapter as one base in our own layout; complete or not at all.

    Kernels keep their type: in bfloat16 an update smaller than 1/256 of a weight is rounded away, which is why
    LLaVA-RLHF's authors advise against merging.

    Args:
        folder: A new folder.
        config: Of the base, with the adapter's rank and alpha.
        base: Not quantised; stored ones are read a layer at a time.
        lora: The adapter.
        checkpoint: Folder whose tokenizer and image processor are copied, or None.
        source: What the record says of where it came from.

    Raises:
        InputError: ``folder`` exists, ``checkpoint`` holds no tokenizer, or values are NaN or infinite once they are
            merged.
    """
    leaves = leaves_of(base)
    shapes = base_shapes(config, {name: leaf.dtype for name, leaf in leaves.items()}, None)
    with new_folder(folder) as partial:
        with NativeWriter(partial / WEIGHTS_FILE, shapes) as writer:
            for name, leaf in leaves.items():
                if (pair := _pair(name, lora)) is None:
                    writer.write(name, None, _finite(name, np.asarray(leaf)))
                    continue
                for layer in range(len(leaf)):
                    kernel = _merged(config, jnp.asarray(leaf[layer]), pair["a"][layer], pair["b"][layer])
                    writer.write(name, layer, _finite(f"{name}, layer {layer}", np.asarray(kernel)))
        if checkpoint is not None:
            copy_processor(checkpoint, checkpoint, partial)
        write_info(partial, NativeInfo(config, None, None, source))


def _finite(name: str, tensor: np.ndarray) -> np.ndarray:
    if count := not_finite(tensor):
        found = f"{count} values of {name} that are NaN or infinite after merging"
        raise InputError(found, f"finite weights whose sum {tensor.dtype} holds")
    return tensor


_merged = functools.partial(jax.jit, static_argnums=0)(merged_kernel)


def _pair(name: str, lora: Params) -> Params | None:
    """The adapter of a kernel "language/blocks/attention/q/kernel"."""
    match name.split("/"):
        case ["language", "blocks", part, projection, "kernel"]:
            return lora.get(part, {}).get(projection)
    return None


def probe_logits(config: LlavaConfig, base: Params, lora: Params | None) -> Float[np.ndarray, "b s v"]:
    """Logits of a base, with or without an adapter, on random tokens behind random images."""
    batch = _probe(config)
    run = jax.jit(lambda base, lora: logits(config, base, forward(config, base, lora, batch).hidden))
    return np.asarray(run(base, lora))


def logit_change(apart: Float[np.ndarray, "b s v"], together: Float[np.ndarray, "b s v"]) -> LogitChange:
    """:func:`probe_logits` of base and adapter against those of the merged base."""
    change = np.abs(apart - together)
    same = (apart.argmax(-1) == together.argmax(-1)).mean()
    return LogitChange(float(change.max()), float(change.mean()), float(apart.std()), float(same))


def _probe(config: LlavaConfig) -> Batch:
    rng, span = np.random.default_rng(0), config.vision.patches
    length, side = 1 + span + _PROBE_TEXT, config.vision.image_size
    tokens = rng.integers(0, config.language.vocab_size, (_PROBE_ROWS, length), np.int32)
    tokens[:, 0] = config.bos_token_id
    image = np.zeros((_PROBE_ROWS, length), bool)
    image[:, 1 : 1 + span] = True
    tokens[image] = config.image_token_id
    return Batch(
        tokens=jnp.asarray(tokens),
        attention_mask=jnp.ones((_PROBE_ROWS, length), bool),
        loss_mask=jnp.zeros((_PROBE_ROWS, length), bool),
        image_mask=jnp.asarray(image),
        images=jnp.asarray(rng.integers(0, 256, (_PROBE_ROWS, side, side, 3), np.uint8)),
    )
