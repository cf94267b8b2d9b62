"""A small LLaVA, random weights of visible size for any tree, and batches of every kind of row."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax

from vlm_jax.arrays import Batch, PreferenceBatch, PromptBatch
from vlm_jax.config import PRESETS, LanguageConfig, LoraConfig, VisionConfig
from vlm_jax.models.adapters import init_lora, init_value_head
from vlm_jax.models.llava import init_llava

SMALL = dataclasses.replace(
    PRESETS["scenes-tiny"],
    vision=VisionConfig(image_size=32, patch_size=16, width=24, layers=2, heads=2, mlp_width=32),
    language=LanguageConfig(vocab_size=64, width=32, layers=2, heads=2, kv_heads=2, mlp_width=48, max_positions=512),
    lora=LoraConfig(rank=4, alpha=8.0),
)
IMAGE_SPAN = slice(1, 5)


def randomised(shapes, seed, std=0.2):
    """Random float32 weights in the shapes of a tree, norms near one."""
    rng = np.random.default_rng(seed)

    def draw(path, leaf):
        return jnp.asarray(std * rng.standard_normal(leaf.shape) + (path[-1].key == "scale"), jnp.float32)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def base_weights(config=SMALL, seed=0, std=0.2):
    return randomised(jax.eval_shape(lambda: init_llava(config, jax.random.key(0))), seed, std)


def role_weights(config=SMALL, seed=1, std=0.2):
    """An adapter that changes something, and a head that is not zero."""
    shapes = {"lora": init_lora(config, jax.random.key(0)), "head": init_value_head(config)}
    return randomised(jax.eval_shape(lambda: shapes), seed, std)


def make_batch(lengths, width, side="right", seed=0, config=SMALL) -> Batch:
    """Rows of random tokens; every second one has an image. The loss is on the last third of each row."""
    rng = np.random.default_rng(seed)
    rows, size = len(lengths), config.vision.image_size
    tokens = np.full((rows, width), config.pad_token_id, np.int32)
    real, image, loss = (np.zeros((rows, width), bool) for _ in range(3))
    pixels = np.zeros((rows, size, size, 3), np.uint8)
    for row, length in enumerate(lengths):
        start = 0 if side == "right" else width - length
        tokens[row, start : start + length] = rng.integers(4, config.language.vocab_size, length)
        real[row, start : start + length] = True
        loss[row, start + length - max(1, length // 3) : start + length] = True
        if row % 2 == 0:
            image[row, start + 1 : start + 1 + config.vision.patches] = True
            tokens[row, image[row]] = config.image_token_id
            pixels[row] = rng.integers(0, 256, pixels[row].shape)
    return Batch(*map(jnp.asarray, (tokens, real, image, loss & ~image, pixels)))


def make_pairs(lengths, width, side="left", seed=0, config=SMALL) -> PreferenceBatch:
    """``len(lengths)`` pairs; the second answers are shorter or longer than the first ones."""
    batch = make_batch((*lengths, *lengths[::-1]), width, side, seed, config)
    choice = np.random.default_rng(seed).integers(0, 2, len(lengths)).astype(np.int32)
    return PreferenceBatch(batch=batch, choice=jnp.asarray(choice))


def make_prompts(lengths, width, suffix=5, seed=0, config=SMALL) -> PromptBatch:
    """Left-padded prompts and ragged evaluation turns."""
    rng, rows = np.random.default_rng(seed), len(lengths)
    prompt = make_batch(lengths, width, "left", seed, config)
    prompt = prompt.replace(loss_mask=jnp.zeros_like(prompt.loss_mask))
    suffix_mask = np.arange(suffix) < rng.integers(2, suffix + 1, (rows, 1))
    suffix_tokens = np.where(suffix_mask, rng.integers(4, config.language.vocab_size, (rows, suffix)), 0)
    return PromptBatch(
        prompt=prompt,
        reward_images=None,
        suffix_tokens=jnp.asarray(suffix_tokens, jnp.int32),
        suffix_mask=jnp.asarray(suffix_mask),
        length_bonus=jnp.asarray(rng.uniform(-1, 1, rows), jnp.float32),
        caption_type=jnp.ones(rows, jnp.int32),
        index=jnp.arange(rows, dtype=jnp.int32),
    )


def widened(batch: Batch, columns: int, side: str, seed=9, config=SMALL) -> Batch:
    """More columns and one more row, all masked, full of tokens that mean something."""
    rng = np.random.default_rng(seed)
    rows, width = batch.tokens.shape
    place = (slice(0, rows), slice(0, width) if side == "right" else slice(columns, columns + width))

    def grow(small, filler):
        filler[place] = np.asarray(small)
        return jnp.asarray(filler)

    shape = (rows + 1, width + columns)
    garbage = rng.integers(4, config.language.vocab_size, shape).astype(np.int32)
    images = rng.integers(0, 256, (rows + 1, *batch.images.shape[1:])).astype(np.uint8)
    images[:rows] = batch.images
    masks = (grow(mask, np.zeros(shape, bool)) for mask in (batch.attention_mask, batch.image_mask, batch.loss_mask))
    attention, image, loss = masks
    tokens = jnp.where(attention, grow(batch.tokens, garbage), jnp.asarray(garbage))
    return Batch(tokens, attention, image, loss, jnp.asarray(images))


def assert_close(one, other, rtol):
    """Every leaf to ``rtol`` of the tree's largest value."""
    one, other = jax.tree.leaves(one), jax.tree.leaves(other)
    largest = max(float(jnp.abs(leaf).max()) for leaf in one)
    for left, right in zip(one, other, strict=True):
        assert np.isfinite(left).all()
        np.testing.assert_allclose(left, right, rtol=0, atol=rtol * largest)


def gradients_in(state):
    """The gradient of a first step, read from Adam's first moment (settings must not clip)."""
    return jax.tree.map(lambda moment: moment / 0.1, optax.tree.get(state.optimizer, "mu"))
