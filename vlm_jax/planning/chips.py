"""Accelerators and the shapes they come in: what their makers publish of one chip, and how many there are."""

import dataclasses

from vlm_jax.errors import InputError, did_you_mean

Number = int | float

_GIB, _GIGA, _TERA = 2**30, 1e9, 1e12
# What jax takes of a GPU's memory unless told otherwise (XLA_PYTHON_CLIENT_MEM_FRACTION).
_TAKEN_BY_JAX = 0.75
_TPU = "https://docs.cloud.google.com/tpu/docs/"
_SCALING_BOOK = "https://jax-ml.github.io/scaling-book/tpus/"
_NVIDIA = "https://www.nvidia.com/en-us/data-center/"


@dataclasses.dataclass(frozen=True)
class Chip:
    """One device as jax counts them.

    Attributes:
        name: As people call it.
        flops: Peak of bfloat16 products, operations a second; without sparsity.
        memory: Bytes that a program may use: of a TPU what its compiler says, of a GPU the share that jax takes.
        bandwidth: Of that memory, bytes a second.
        network: Between chips, bytes a second out of one of them over all of its links.
        source: Who says so.
    """

    name: str
    flops: float
    memory: int
    bandwidth: float
    network: float
    source: str


def _tpu(name: str, tera: Number, gib: Number, giga: Number, network: Number, source: str) -> Chip:
    return Chip(name, tera * _TERA, int(gib * _GIB), giga * _GIGA, network * _GIGA, source)


def _gpu(name: str, tera: Number, gib: Number, giga: Number, network: Number, page: str) -> Chip:
    memory = int(_TAKEN_BY_JAX * gib * _GIB)
    return Chip(name, tera * _TERA, memory, giga * _GIGA, network * _GIGA, f"{_NVIDIA}{page}")


CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        # Both cores of a chip as one device. Six links of 45 GB/s: Google's own page has no figure.
        _tpu("v4", 275, 30.75, 1200, 270, f"{_TPU}v4, {_SCALING_BOOK}"),
        _tpu("v5e", 197, 15.75, 819, 200, f"{_TPU}v5e"),
        _tpu("v5p", 459, 95.74, 2765, 600, f"{_TPU}v5p-training"),
        _tpu("v6e", 918, 31.25, 1638, 400, f"{_TPU}v6e"),
        # SXM; memory as drivers report it. NVLink's published figure counts both directions, and that of Hopper's
        # products sparsity.
        _gpu("a100-40g", 312, 40, 1555, 300, "a100/"),
        _gpu("a100-80g", 312, 80, 2039, 300, "a100/"),
        _gpu("h100", 989, 79.6, 3350, 450, "h100/"),
        _gpu("h200", 989, 140.4, 4800, 450, "h200/"),
    )
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """Chips that one program runs on.

    Attributes:
        name: ``v5e-16``, ``h100x8``.
        chip: Of which kind.
        count: Devices as jax counts them; names of v4 and v5p count cores, two a chip.
        layout: What the TPU compiler calls it; None of GPUs.
    """

    name: str
    chip: Chip
    count: int
    layout: str | None = None


_FLAT = {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16", 256: "16x16"}
_DEEP = {8: "2x2x1", 16: "2x2x2", 32: "2x2x4"}
_GRIDS = {"v4": _DEEP, "v5p": _DEEP, "v5e": _FLAT, "v6e": _FLAT}


def _slice(chip: str, size: int, grid: str) -> Topology:
    cores = 2 if _GRIDS[chip] is _DEEP else 1
    return Topology(f"{chip}-{size}", CHIPS[chip], size // cores, f"{chip}:{grid}")


# GPUs of one machine: what lies beyond is another network.
TOPOLOGIES: dict[str, Topology] = {
    **{f"{chip}-{size}": _slice(chip, size, grid) for chip, grids in _GRIDS.items() for size, grid in grids.items()},
    **{
        f"{name}x{count}": Topology(f"{name}x{count}", CHIPS[name], count)
        for name in ("a100-40g", "a100-80g", "h100", "h200")
        for count in (1, 2, 4, 8)
    },
}


def topology_named(name: str) -> Topology:
    """A topology by its name.

    Raises:
        InputError: There is none of this name.
    """
    if name not in TOPOLOGIES:
        found = f"topology {name!r}{did_you_mean(name, TOPOLOGIES)}"
        raise InputError(found, f"one of {', '.join(TOPOLOGIES)}")
    return TOPOLOGIES[name]
