"""Rows with their real positions in front, so that causality alone is the whole mask of an attention kernel.

Padding may stand anywhere (before a prompt, between an answer and what follows it). A real position is then never
behind padding, and reads nothing but real ones before it.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int32, Shaped

from vlm_jax.parallel.mesh import by_rows


class Order(NamedTuple):
    """Where each place of a reordered row was before, and where each place of the row before is now."""

    there: Int32[Array, "b t"]
    back: Int32[Array, "b t"]

    def turn(self, x: Shaped[Array, "b t *d"]) -> Shaped[Array, "b t *d"]:
        return _taken(x, self.there, self.back)

    def restore(self, x: Shaped[Array, "b t *d"]) -> Shaped[Array, "b t *d"]:
        """The inverse of :meth:`turn`."""
        return _taken(x, self.back, self.there)


def real_first(attention_mask: Bool[Array, "b t"]) -> Order:
    """Real positions in their order, then padding."""
    there = jnp.argsort(~attention_mask, axis=1, stable=True).astype(jnp.int32)
    return Order(there, jnp.argsort(there, axis=1).astype(jnp.int32))


@jax.custom_vjp
def _taken(x: Array, places: Array, back: Array) -> Array:
    def of_rows(x, places):
        return jnp.take_along_axis(x, places.reshape(*places.shape, *[1] * (x.ndim - 2)), axis=1)

    return by_rows(of_rows, x, places)


def _forward(x: Array, places: Array, back: Array) -> tuple[Array, tuple[Array, Array]]:
    return _taken(x, places, back), (places, back)


def _backward(kept: tuple[Array, Array], gradient: Array) -> tuple[Array, None, None]:
    # No two places are the same: what would be added up by place (slow on accelerators) is only moved back.
    places, back = kept
    return _taken(gradient, back, places), None, None


_taken.defvjp(_forward, _backward)
