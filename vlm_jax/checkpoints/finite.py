"""Weights that are numbers: one NaN among them makes every answer empty, and a judge finds nothing wrong with those."""

from pathlib import Path

import ml_dtypes
import numpy as np

from vlm_jax.errors import InputError

# Bits of infinity: whatever is as large without its sign is infinite, or larger and NaN.
_INFINITY = {
    np.dtype(np.float64): (np.uint64, 0x7FF0_0000_0000_0000),
    np.dtype(np.float32): (np.uint32, 0x7F80_0000),
    np.dtype(np.float16): (np.uint16, 0x7C00),
    np.dtype(ml_dtypes.bfloat16): (np.uint16, 0x7F80),
}
_CHUNK = 2**18  # Values that are looked at while they lie in the processor's cache.


def not_finite(tensor: np.ndarray) -> int:
    """How many values are NaN or infinite; integers never are. Reads the values once and holds a chunk of them."""
    if tensor.dtype not in _INFINITY:
        return 0
    kind, infinity = _INFINITY[tensor.dtype]
    # In the order in which they lie: a transposed view is not copied.
    bits = tensor.ravel(order="K").view(kind)
    magnitude, count = kind(2 ** (8 * bits.itemsize - 1) - 1), 0
    for start in range(0, len(bits), _CHUNK):
        chunk = bits[start : start + _CHUNK] & magnitude
        if chunk.max() >= infinity:
            count += int((chunk >= infinity).sum())
    return count


def finite(name: str, tensor: np.ndarray, file: Path | None) -> np.ndarray:
    """The tensor itself.

    Raises:
        InputError: A value of it is NaN or infinite.
    """
    if count := not_finite(tensor):
        found = f"{count} of {tensor.size} values of {name} that are NaN or infinite"
        raise InputError(found, "finite weights", file=None if file is None else str(file))
    return tensor
