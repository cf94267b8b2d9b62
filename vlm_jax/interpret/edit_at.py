"""An edit of block outputs that is told by the kind of position, for passes whose batches are yet to come."""

import dataclasses
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vlm_jax.arrays import Batch
from vlm_jax.errors import InputError
from vlm_jax.models.llava import Edit

At = Literal["image", "text", "all"]


@dataclasses.dataclass(frozen=True)
class EditAt:
    """Batch -> :class:`~vlm_jax.models.llava.Edit` at its image positions, at all others, or at both; never at padding.

    Attributes:
        apply: States [b, t, d] of every position -> what takes their place, in the same shape; pure, since it is
            compiled once. In decoding, t is the prompt's length and then 1.
        layers: Blocks whose outputs change, counted from 1.
        at: The positions. An answer's own tokens are text.
    """

    apply: Callable[[Float[Array, "b t d"]], Float[Array, "b t d"]]
    layers: tuple[int, ...]
    at: At

    def __call__(self, batch: Batch) -> Edit:
        masks = {
            "image": batch.image_mask,
            "text": batch.attention_mask & ~batch.image_mask,
            "all": batch.attention_mask,
        }
        return Edit(self.layers, masks[self.at], self._changed)

    def _changed(self, states: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        """What ``apply`` makes of states, in their own type.

        Raises:
            InputError: It is no array of numbers, or has another shape, which would be broadcast; or ``apply`` asks for
                the states' values, which are not there while it is compiled.
        """
        try:
            made = self.apply(states)
        except jax.errors.JAXTypeError as error:
            found = f"an edit that asks for values while it is compiled ({type(error).__name__})"
            raise InputError(found, "a function in pure jax.numpy") from error
        if not isinstance(made, jax.Array | np.ndarray) or made.dtype.kind in "bcOUS":
            kind = f"an array of {made.dtype}" if isinstance(made, jax.Array | np.ndarray) else type(made).__name__
            raise InputError(f"an edit that makes {kind}", "an array of numbers")
        new = jnp.asarray(made)
        if new.shape != states.shape:
            raise InputError(f"an edit that makes {new.shape} of {states.shape}", "states of the same shape")
        return new.astype(states.dtype)
