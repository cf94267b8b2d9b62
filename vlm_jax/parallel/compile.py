"""Jit with shardings from the one table: weights and state by rule, batches by rows, everything else replicated."""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import AbstractMesh, Mesh

from vlm_jax.errors import InputError
from vlm_jax.parallel.mesh import batch_sharding, replicated, shardings


def place(mesh: Mesh, tree: Any) -> Any:
    """Move weights, adapters or a train state onto the mesh as the table says."""
    return jax.device_put(tree, shardings(mesh, tree))


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Move a batch of host arrays onto the mesh, rows split.

    Raises:
        InputError: The rows cannot be split evenly.
    """
    rows, parts = len(jax.tree.leaves(batch)[0]), mesh.shape["data"] * mesh.shape["fsdp"]
    if rows % parts:
        raise InputError(f"a batch of {rows} rows", f"a multiple of {parts} (data x fsdp devices)")
    return jax.device_put(batch, batch_sharding(mesh))


def jit_step(step: Callable, mesh: Mesh | AbstractMesh, *static: Any, state: Any) -> Callable:
    """Compile ``step(*static, base, state, *batches) -> (state, extra)``.

    The state is donated and leaves with the shardings that it came with, so that a second call compiles nothing.
    Arguments must already lie where :func:`place` and :func:`place_batch` put them. ``extra`` is replicated.
    """
    return jax.jit(
        functools.partial(step, *static),
        donate_argnums=1,
        out_shardings=(shardings(mesh, state), replicated(mesh)),
    )
