"""A small LLaVA with weights of visible size, and prompts for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_llava import SMALL, make_prompts

from vlm_jax.models.llava import init_llava


@pytest.fixture(scope="session")
def config():
    return SMALL


@pytest.fixture(scope="session")
def base():
    shapes = jax.eval_shape(lambda: init_llava(SMALL, jax.random.key(0)))
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        return jnp.asarray(0.3 * rng.standard_normal(leaf.shape) + (path[-1].key == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def prompts():
    """Eight prompts of 6 to 13 positions."""
    return make_prompts((13, 6, 7, 12, 10, 9, 11, 8), 13)
