"""ProjectAway (Jiang et al. 2024): take the directions of objects out of the states of image positions."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def project_away(
    states: Float[Array, "*b p d"], directions: Float[Array, "n d"], weight: float
) -> Float[Array, "*b p d"]:
    """States without what they have of each direction.

    One direction t after the other: h becomes h - weight * c * t with c = <h, t> / <t, t>, where c is positive. The
    directions are not made orthogonal, so their order matters, as in the released code (``vl-interp``,
    ``algorithms.py``); that takes every row's c from the first row of the batch, this each row's own. A direction of
    zeros takes nothing.

    Args:
        states: Of image positions, in any floating type; computed in it.
        directions: One for each object, in the order in which they are taken out.
        weight: 1 removes a direction, more turns it round.
    """

    def take_out(states: Array, direction: Array) -> tuple[Array, None]:
        power = jnp.sum(direction * direction)
        share = jnp.maximum(states @ direction, 0) / jnp.where(power > 0, power, 1)
        return states - weight * share[..., None] * direction, None

    return jax.lax.scan(take_out, states, directions.astype(states.dtype))[0]
