"""One root seed per run; every draw names its purpose and its step, so checkpoints store the seed and no key chain."""

import zlib

import jax
from jaxtyping import Array


def key_for(seed: int, purpose: str, step: int | Array = 0) -> Array:
    """The key of one purpose at one step: the same on every device count and after every resume."""
    root = jax.random.fold_in(jax.random.key(seed), zlib.crc32(purpose.encode()))
    return jax.random.fold_in(root, step)
