"""A small LLaVA with weights of visible size, and ragged left-padded prompts with and without an image."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from vlm_jax.arrays import Batch
from vlm_jax.config import PRESETS, LanguageConfig, VisionConfig

SMALL = dataclasses.replace(
    PRESETS["scenes-tiny"],
    vision=VisionConfig(image_size=32, patch_size=16, width=24, layers=2, heads=2, mlp_width=32),
    language=LanguageConfig(vocab_size=64, width=32, layers=2, heads=2, kv_heads=2, mlp_width=48, max_positions=512),
    # No id of the vocabulary ends an answer; tests that need an end choose one.
    eos_token_id=-1,
)


def make_prompts(lengths, width, seed=1) -> Batch:
    """Left-padded prompts; every second row starts with a begin token and an image of four positions."""
    rng = np.random.default_rng(seed)
    rows = len(lengths)
    tokens = np.zeros((rows, width), np.int32)
    real, image = np.zeros((rows, width), bool), np.zeros((rows, width), bool)
    pixels = np.zeros((rows, 32, 32, 3), np.uint8)
    for row, length in enumerate(lengths):
        start = width - length
        tokens[row, start:] = rng.integers(4, 64, length)
        real[row, start:] = True
        if row % 2 == 0:
            image[row, start + 1 : start + 5] = True
            tokens[row, image[row]] = SMALL.image_token_id
            pixels[row] = rng.integers(0, 256, pixels[row].shape)
    return Batch(*map(jnp.asarray, (tokens, real, image, np.zeros_like(real), pixels)))
