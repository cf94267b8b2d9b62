"""Jit with shardings from the one table: weights and state by rule, batches by rows, everything else replicated."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AbstractMesh, Mesh, Sharding

from vlm_jax.parallel.local_rows import held_parts, parts_of, rows_of_part
from vlm_jax.parallel.mesh import batch_sharding, replicated, shardings


def place(mesh: Mesh, tree: Any) -> Any:
    """Move weights, adapters or a train state onto the mesh as the table says.

    Of several processes each brings the same values, or all of them arrays that lie on the mesh already.
    """
    if jax.process_count() == 1:
        return jax.device_put(tree, shardings(mesh, tree))
    return jax.tree.map(_spread, tree, shardings(mesh, tree))


def _spread(leaf: Any, sharding: Sharding) -> jax.Array:
    if isinstance(leaf, jax.Array) and not leaf.is_fully_addressable:
        return jax.jit(lambda leaf: leaf, out_shardings=sharding)(leaf)
    whole = np.asarray(leaf)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])


def place_batch(mesh: Mesh, batch: Any) -> Any:
    """Move a batch of host arrays onto the mesh, rows split.

    Of several processes each brings the rows of ``held_rows`` alone, leaf by leaf.

    Raises:
        InputError: The rows cannot be split evenly.
    """
    if jax.process_count() == 1:
        rows_of_part(mesh, len(jax.tree.leaves(batch)[0]))
        return jax.device_put(batch, batch_sharding(mesh))
    held, sharding = held_parts(mesh), batch_sharding(mesh)
    return jax.tree.map(lambda leaf: _joined(leaf, held, parts_of(mesh), sharding), batch)


def _joined(leaf: Any, held: list[int], parts: int, sharding: Sharding) -> jax.Array:
    """An array of all rows from those of the parts that this process holds."""
    own = np.split(np.asarray(leaf), len(held))
    size = len(own[0])

    def part_at(index: tuple[slice, ...]) -> np.ndarray:
        return own[held.index((index[0].start or 0) // size)]

    return jax.make_array_from_callback((parts * size, *own[0].shape[1:]), sharding, part_at)


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
