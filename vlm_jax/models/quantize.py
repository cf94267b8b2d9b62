"""Frozen kernels in fewer bits: int8 by column, NF4 in blocks of 64 (Dettmers et al. 2023, "QLoRA", section 3).

A quantised kernel is a small pytree that stands in a weight tree where the array would be; leading axes (stacked
layers) pass through. Only the seven projections of the decoder's blocks are quantised, as in QLoRA: tables, heads,
norms, the projector and the vision tower keep their type.
"""

from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int8, UInt8

from vlm_jax.arrays import Params

Scheme = Literal["int8", "nf4", "nf4_double"]

# QLoRA, appendix E: quantiles of the normal distribution that are symmetric in count and hold an exact 0.
NF4_VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
NF4_BLOCK = 64
_INT8_PEAK = 127
_UINT8_PEAK = 255


@flax.struct.dataclass
class Int8Kernel:
    """``values * scale``; the largest magnitude of a column becomes 127."""

    values: Int8[Array, "*l i o"]
    scale: Float[Array, "*l o"]


@flax.struct.dataclass
class Nf4Kernel:
    """Two codes a byte (the even input in the low half), and the largest magnitude of every 64 inputs of a column.

    The last block of a column is filled up with zeros where ``inputs`` is no multiple of 64. With ``peak``, the
    magnitudes are 8 bits wide and count in 255ths of the column's largest (double quantisation: 0.5 bit a weight
    becomes 0.125).
    """

    codes: UInt8[Array, "*l bytes o"]
    absmax: Float[Array, "*l blocks o"] | UInt8[Array, "*l blocks o"]
    peak: Float[Array, "*l o"] | None
    inputs: int = flax.struct.field(pytree_node=False)


Kernel = Array | Int8Kernel | Nf4Kernel


def quantize(kernel: Float[Array, "*l i o"], scheme: Scheme) -> Int8Kernel | Nf4Kernel:
    """The nearest quantised kernel, computed in float32. NaN and infinities are the caller's to refuse."""
    wide = kernel.astype(jnp.float32)
    return _int8(wide) if scheme == "int8" else _nf4(wide, double=scheme == "nf4_double")


def is_quantized(leaf: object) -> bool:
    return isinstance(leaf, Int8Kernel | Nf4Kernel)


def has_quantized(base: Params) -> bool:
    """Whether any kernel of a base is quantised: it can be adapted, but neither trained nor merged into."""
    return any(map(is_quantized, jax.tree.leaves(base, is_leaf=is_quantized)))


def dense(kernel: Kernel, dtype: jnp.dtype) -> Float[Array, "*l i o"]:
    """The kernel as an array of this type; a plain kernel is only cast."""
    if isinstance(kernel, Int8Kernel):
        return (kernel.values.astype(jnp.float32) * kernel.scale[..., None, :]).astype(dtype)
    if isinstance(kernel, Nf4Kernel):
        return _from_nf4(kernel).astype(dtype)
    return kernel.astype(dtype)


def quantize_base(base: Params, scheme: Scheme) -> Params:
    """The base with the decoder blocks' projections quantised; under ``jax.eval_shape`` the shapes alone."""
    blocks = base["language"]["blocks"]
    quantized = {
        part: {name: {**linear, "kernel": quantize(linear["kernel"], scheme)} for name, linear in blocks[part].items()}
        for part in ("attention", "mlp")
    }
    return {**base, "language": {**base["language"], "blocks": {**blocks, **quantized}}}


def _int8(kernel: Float[Array, "*l i o"]) -> Int8Kernel:
    scale = jnp.abs(kernel).max(-2) / _INT8_PEAK
    values = jnp.round(kernel / _or_one(scale)[..., None, :])
    return Int8Kernel(values.astype(jnp.int8), scale)


def _nf4(kernel: Float[Array, "*l i o"], double: bool) -> Nf4Kernel:
    *layers, inputs, outputs = kernel.shape
    blocks = -(-inputs // NF4_BLOCK)
    filled = jnp.pad(kernel, [(0, 0)] * len(layers) + [(0, blocks * NF4_BLOCK - inputs), (0, 0)])
    filled = filled.reshape(*layers, blocks, NF4_BLOCK, outputs)
    absmax, peak = jnp.abs(filled).max(-2), None
    if double:
        peak = absmax.max(-2)
        absmax = jnp.round(absmax / _or_one(peak)[..., None, :] * _UINT8_PEAK).astype(jnp.uint8)
    unit = filled / _or_one(_magnitudes(absmax, peak))[..., None, :]
    values = jnp.array(NF4_VALUES, jnp.float32)
    middles = (values[1:] + values[:-1]) / 2
    # Comparing with each of the 15 middles in turn is one fused pass; a binary search is not.
    codes = sum((unit > middle).astype(jnp.uint8) for middle in middles)
    pairs = codes.reshape(*layers, blocks * NF4_BLOCK // 2, 2, outputs)
    return Nf4Kernel(pairs[..., 0, :] | (pairs[..., 1, :] << 4), absmax, peak, inputs)


def _from_nf4(kernel: Nf4Kernel) -> Float[Array, "*l i o"]:
    *layers, _, outputs = kernel.codes.shape
    halves = jnp.stack([kernel.codes & 15, kernel.codes >> 4], axis=-2)
    unit = jnp.array(NF4_VALUES, jnp.float32)[halves.reshape(*layers, -1, NF4_BLOCK, outputs)]
    whole = unit * _magnitudes(kernel.absmax, kernel.peak)[..., None, :]
    return whole.reshape(*layers, -1, outputs)[..., : kernel.inputs, :]


def _magnitudes(absmax: Array, peak: Array | None) -> Float[Array, "*l blocks o"]:
    return absmax if peak is None else absmax.astype(jnp.float32) * (peak[..., None, :] / _UINT8_PEAK)


def _or_one(scale: Array) -> Array:
    """All-zero columns have no scale."""
    return jnp.where(scale > 0, scale, 1.0)
