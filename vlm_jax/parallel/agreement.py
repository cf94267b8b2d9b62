"""A decision that all processes of a run have to take alike."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from vlm_jax.parallel.mesh import replicated


def any_process(mesh: Mesh, here: Callable[[], bool]) -> Callable[[], bool]:
    """A question that every process asks equally often, after each step say: whether ``here`` is true on any of them.

    All get the same answer each time. It is that of the time before: what was asked then came after the step before
    this one on the devices, so that nobody waits for the step that has just begun.
    """
    spread = NamedSharding(mesh, P(mesh.axis_names))
    joined = jax.jit(jnp.any, out_shardings=replicated(mesh))
    before: list[jax.Array] = []

    def ask() -> bool:
        said = here()
        flags = jax.make_array_from_callback((mesh.size,), spread, lambda index: np.full(1, said))
        before.append(joined(flags))
        return len(before) > 1 and bool(before.pop(0))

    return ask
