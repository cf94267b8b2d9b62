"""One tiny LLaVA with uneven sizes, weights of visible size, and a batch of every kind of row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.arrays import Batch
from vlm_jax.config import LanguageConfig, LlavaConfig, LoraConfig, VisionConfig
from vlm_jax.models.adapters import init_lora
from vlm_jax.models.llava import init_llava

TINY = LlavaConfig(
    vision=VisionConfig(image_size=28, patch_size=14, width=36, layers=3, heads=3, mlp_width=50),
    language=LanguageConfig(vocab_size=61, width=48, layers=3, heads=6, kv_heads=2, mlp_width=40, max_positions=64),
    lora=LoraConfig(rank=3, alpha=6.0),
    image_token_id=60,
    dtype="float32",
    remat="none",
)


def randomised(shapes, seed: int = 0):
    """Random float32 weights in the shapes of a tree, norms near one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        return jnp.asarray(0.15 * rng.standard_normal(leaf.shape) + (path[-1].key == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@pytest.fixture(scope="session")
def tiny() -> LlavaConfig:
    return TINY


@pytest.fixture(scope="session")
def base():
    return randomised(jax.eval_shape(lambda: init_llava(TINY, jax.random.key(0))))


@pytest.fixture(scope="session")
def adapter():
    """A trained adapter: unlike a fresh one, it changes the output."""
    return randomised(jax.eval_shape(lambda: init_lora(TINY, jax.random.key(0))), seed=1)


@pytest.fixture(scope="session")
def batch() -> Batch:
    """An image row, a left-padded image row, a row of text alone, and a left-padded one."""
    rng = np.random.default_rng(2)
    tokens = rng.integers(4, 60, (4, 14)).astype(np.int32)
    attention_mask, image_mask = np.ones((4, 14), bool), np.zeros((4, 14), bool)
    attention_mask[1, :4] = attention_mask[3, :6] = False
    image_mask[0, 1:5] = image_mask[1, 5:9] = True
    images = rng.integers(0, 256, (4, 28, 28, 3)).astype(np.uint8)
    images[2:] = 0
    tokens[image_mask], tokens[~attention_mask] = TINY.image_token_id, 0
    return Batch(
        tokens=jnp.asarray(tokens),
        attention_mask=jnp.asarray(attention_mask),
        image_mask=jnp.asarray(image_mask),
        loss_mask=jnp.asarray(attention_mask & ~image_mask),
        images=jnp.asarray(images),
    )


@pytest.fixture(scope="session")
def text_batch(batch) -> Batch:
    """The two text rows alone, without pixels."""
    return dataclasses.replace(jax.tree.map(lambda leaf: leaf[2:], batch), images=None)
