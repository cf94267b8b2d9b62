"""The annotations of the package are checked while the other tests run; without that they would pass over much."""

import jax.numpy as jnp
import pytest
from jaxtyping import TypeCheckError

from vlm_jax.scenes.language import article
from vlm_jax.train.losses import masked_mean


def test_types():
    with pytest.raises(TypeCheckError):
        article(3)


def test_shapes():
    with pytest.raises(TypeCheckError):
        masked_mean(jnp.ones((2, 3)), jnp.ones((2, 4), bool))
