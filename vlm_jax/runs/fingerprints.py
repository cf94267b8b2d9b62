"""One number for each leaf's bits, computed where the leaf lies."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, UInt32

from vlm_jax.parallel.mesh import path_name

_STEP = 2654435762  # Even, so that a step plus one is odd; about the golden ratio of 2^32.


def fingerprints(state: Any) -> dict[str, int]:
    """A number for every leaf's bits, computed where the leaf lies; the same on every mesh."""
    marks = jax.device_get(_marks(state))
    return {path_name(path): int(mark) for path, mark in jax.tree_util.tree_leaves_with_path(marks)}


@jax.jit
def _marks(state: Any) -> Any:
    return jax.tree.map(_mark, state)


def _mark(leaf: Array) -> UInt32[Array, ""]:
    """Sum of the elements' bits, each times an odd number of its own, modulo 2^32.

    A changed bit moves a term by a power of two times an odd number, which is never 0 there; integers may be added up
    in any order.
    """
    if leaf.dtype == bool:
        leaf = leaf.astype(jnp.uint8)
    bits = jax.lax.bitcast_convert_type(leaf, f"uint{8 * leaf.dtype.itemsize}").astype(jnp.uint32)
    # Counted axis by axis: flattening a leaf that is split between devices would gather it on each.
    place, stride = jnp.zeros((), jnp.uint32), 1
    for axis in reversed(range(bits.ndim)):
        place = place + jax.lax.broadcasted_iota(jnp.uint32, bits.shape, axis) * jnp.uint32(stride % 2**32)
        stride *= bits.shape[axis]
    return jnp.sum(bits * (place * jnp.uint32(_STEP) + jnp.uint32(1)), dtype=jnp.uint32)
