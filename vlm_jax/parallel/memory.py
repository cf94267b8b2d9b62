"""What a pass needs at the very least, against what the devices have: refused before anything is allocated.

Each estimate counts arrays that have to exist at one time, whatever the compiler does: it is a lower bound, so nothing
that fits is refused, and what is let through may still not fit.
"""

import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_jax.arrays import Params
from vlm_jax.config import LlavaConfig
from vlm_jax.errors import InputError

# Files in which Linux says how much a container may use, of both generations.
_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_GIGA = 10**9


@runtime_checkable
class Placed(Protocol):
    """A model whose weights lie on a mesh."""

    @property
    def config(self) -> LlavaConfig: ...
    @property
    def base(self) -> Params: ...
    @property
    def mesh(self) -> Mesh: ...


def bytes_of(tree: Any) -> int:
    """Of all arrays of a tree, or of their shapes."""
    return sum(math.prod(leaf.shape) * np.dtype(leaf.dtype).itemsize for leaf in jax.tree.leaves(tree))


def answering(config: LlavaConfig, rows: int, width: int, new_tokens: int, tensor: int = 1) -> dict[str, int]:
    """Of a batch of answers (``generate.decode.generate``), beside the weights.

    Args:
        config: Of the model.
        rows: Of the batch.
        width: Positions of the prompts, at least; image included.
        new_tokens: Limit of an answer.
        tensor: Parts that heads, hidden units and vocabulary are split into: the bytes are those of one part.

    Returns:
        Bytes by what they are for.
    """
    language = config.language
    slots = language.layers * rows * (width + new_tokens) * language.kv_heads * language.head_width
    return {
        "keys and values": 2 * slots * itemsize(config) // tensor,
        "attention mask": rows * width * (width + new_tokens),
        # Token, float32 log-probability and mask.
        "answers": 9 * rows * new_tokens,
        "logits": 4 * rows * language.vocab_size // tensor,
        **_images(config, rows),
    }


def reading(config: LlavaConfig, rows: int, width: int, tensor: int = 1) -> dict[str, int]:
    """Of one forward pass over a batch: the states between blocks and, inside one, the MLP's hidden units; all of the
    blocks read one mask.

    Args:
        config: Of the model.
        rows: Of the batch.
        width: Positions, at least; image included.
        tensor: As in :func:`answering`.
    """
    language = config.language
    states = rows * width * (language.width + language.mlp_width // tensor) * itemsize(config)
    return {
        "activations": states,
        "attention": _scores(config, rows, width) // tensor,
        "attention mask": rows * width**2,
        **_images(config, rows),
    }


def training(
    config: LlavaConfig, rows: int, width: int, microbatches: int, trained: int, tensor: int = 1
) -> dict[str, int]:
    """Of one update: what a backward pass keeps in any case (each block's input), and the optimizer's state.

    Args:
        config: Of the model.
        rows: Of the whole batch.
        width: Positions of a row; image included.
        microbatches: Parts that the batch is worked through in.
        trained: Numbers that are trained.
        tensor: As in :func:`answering`.
    """
    language, part = config.language, rows // microbatches
    states = (language.layers * language.width + language.mlp_width // tensor) * part * width * itemsize(config)
    return {
        "activations": states,
        "attention": _scores(config, part, width) // tensor,
        "attention mask": part * width**2,
        # Values, two moments and a gradient, in float32.
        "what is trained": 16 * trained,
        **_images(config, rows),
    }


def _scores(config: LlavaConfig, rows: int, width: int) -> int:
    """Of one block's attention, whose scores all exist at one time."""
    return rows * config.language.heads * width**2 * itemsize(config)


def _images(config: LlavaConfig, rows: int) -> dict[str, int]:
    return {"pictures": 3 * rows * config.vision.image_size**2}


def itemsize(config: LlavaConfig) -> int:
    """Bytes of a number of the arithmetic."""
    return np.dtype(config.dtype).itemsize


def require_answering(
    model: Placed,
    rows: int,
    width: int,
    new_tokens: int,
    remedy: str = "a smaller batch size, or fewer new tokens",
) -> None:
    """Asked before batches of prompts are made, since they take memory themselves, and again of each as it is.

    Raises:
        InputError: The devices have less memory than :func:`answering` and the weights take.
    """
    needs = answering(model.config, rows, width, new_tokens)
    require_fits(model.mesh, _beside(model, needs), remedy)


def require_reading(model: Placed, rows: int, width: int) -> None:
    """As :func:`require_answering`, of a single pass (:func:`reading`)."""
    needs = reading(model.config, rows, width)
    require_fits(model.mesh, _beside(model, needs), "a smaller batch size, or shorter texts")


def require_training(model: Placed, rows: int, width: int, microbatches: int, first: Callable[[], Any]) -> None:
    """As :func:`require_answering`, of an update (:func:`training`).

    Args:
        model: The checkpoint, on the mesh.
        rows: Of an update.
        width: Positions of a row.
        microbatches: Parts that an update is worked through in.
        first: Makes what is trained; only its shapes are looked at.
    """
    trained = sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(jax.eval_shape(first)))
    needs = training(model.config, rows, width, microbatches, trained)
    remedy = "more --microbatches, a smaller --batch-size, or shorter rows"
    require_fits(model.mesh, _beside(model, needs), remedy)


def _beside(model: Placed, needs: Mapping[str, int]) -> dict[str, int]:
    return {"weights": bytes_of(model.base), **needs}


def require_fits(mesh: Mesh, needs: Mapping[str, int], remedy: str = "") -> None:
    """Raises an :class:`InputError` with the estimate where all the devices of a mesh together have less than it.

    Args:
        mesh: The devices.
        needs: Bytes by what they are for, all at one time.
        remedy: Options that make it less.
    """
    _require(available(mesh), needs, remedy)


def require_host_fits(needs: Mapping[str, int], remedy: str = "") -> None:
    """As :func:`require_fits`, of what lies in the memory of this machine whatever devices there are."""
    _require(host_memory(), needs, remedy)


def _require(have: int | None, needs: Mapping[str, int], remedy: str) -> None:
    total = sum(needs.values())
    if have is None or total <= have:
        return
    parts = ", ".join(f"{name} {size / _GIGA:,.1f}" for name, size in sorted(needs.items(), key=lambda item: -item[1]))
    wanted = f"at most the {have / _GIGA:,.1f} GB that there are{remedy and f': {remedy}'}"
    raise InputError(f"a need for at least {total / _GIGA:,.1f} GB of memory ({parts})", wanted)


def available(mesh: Mesh) -> int | None:
    """Bytes that the devices of a mesh have together; None where nobody says. Of several processes each may lie on a
    machine of its own, like this one's."""
    devices, processes = list(mesh.devices.flat), jax.process_count()
    if all(device.platform == "cpu" for device in devices):
        memory = host_memory()
        return None if memory is None else processes * memory
    if processes > 1:
        # Nobody is told of another machine's devices.
        devices = jax.local_devices()
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return None if None in limits else processes * sum(limits)


def host_memory() -> int | None:
    """Bytes of this machine, or of the container around the process where that has less; with what may be swapped out,
    which a container's limit leaves aside."""
    physical = _physical()
    if physical is None:
        return None
    limits = [size for size in map(_limit, map(Path, _LIMITS)) if size is not None]
    return min([physical, *limits]) + _swap()


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _limit(file: Path) -> int | None:
    said = _said(file).strip()
    return int(said) if said.isdecimal() else None


def _swap() -> int:
    found = re.search(r"^SwapTotal:\s*(\d+) kB", _said(Path("/proc/meminfo")), re.MULTILINE)
    return 1024 * int(found[1]) if found else 0


def _said(file: Path) -> str:
    """Nothing on systems that have no such file."""
    try:
        return file.read_text()
    except OSError:
        return ""
