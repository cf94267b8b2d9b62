"""Which rows of a batch a process holds, where a mesh lies on several: what it reads, and what it hands over."""

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_jax.errors import InputError


def parts_of(mesh: Mesh) -> int:
    """Parts of equal size that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def held_parts(mesh: Mesh) -> list[int]:
    """The parts of a batch that lie on this process' devices, in order."""
    return parts_with(np.vectorize(lambda device: device.process_index)(mesh.devices), jax.process_index())


def parts_with(owners: np.ndarray, process: int) -> list[int]:
    """The parts of a batch that a process has devices of; several processes may have one part (tensor axis).

    Args:
        owners: Each device's process, in the mesh's axes (data, fsdp, tensor).
        process: Which.
    """
    return np.flatnonzero((owners == process).any(-1)).tolist()


def held_rows(mesh: Mesh, rows: int) -> list[int]:
    """The rows of a batch of ``rows`` that lie on this process' devices, in order.

    Raises:
        InputError: The rows cannot be split evenly.
    """
    size = rows_of_part(mesh, rows)
    return [row for part in held_parts(mesh) for row in range(part * size, (part + 1) * size)]


def rows_of_part(mesh: Mesh, rows: int) -> int:
    """Raises:
    InputError: The rows cannot be split evenly.
    """
    if rows % parts_of(mesh):
        raise InputError(f"a batch of {rows} rows", f"a multiple of {parts_of(mesh)} (data x fsdp devices)")
    return rows // parts_of(mesh)
