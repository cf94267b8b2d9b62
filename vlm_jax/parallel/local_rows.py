"""Which rows of a batch a process holds, where a mesh lies on several: what it reads, and what it hands over."""

import jax
from jax.sharding import Mesh

from vlm_jax.errors import InputError
from vlm_jax.parallel.mesh import BATCH_AXES


def parts_of(mesh: Mesh) -> int:
    """Parts of equal size that a batch is split into."""
    return mesh.shape["data"] * mesh.shape["fsdp"]


def held_parts(mesh: Mesh, process: int | None = None) -> list[int]:
    """The parts of a batch that lie on a process' devices, in order; two processes may hold one part (tensor axis).

    Args:
        mesh: Its first axes are what rows are split over.
        process: Which; this one without.
    """
    assert mesh.axis_names[: len(BATCH_AXES)] == BATCH_AXES, "parts are numbered by the first axes"
    process = jax.process_index() if process is None else process
    parts = mesh.devices.reshape(parts_of(mesh), -1)
    return [number for number, part in enumerate(parts) if any(one.process_index == process for one in part)]


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
