"""Parameter counts of the named models, from shapes alone; the numbers are those of the published models."""

import math

import jax
import pytest

from vlm_jax.config import CLIP_PRESETS, PRESETS
from vlm_jax.models.adapters import init_lora
from vlm_jax.models.clip import init_clip
from vlm_jax.models.llava import init_llava

LANGUAGE = {"7b": 6_738_415_616, "13b": 13_015_864_320}
VISION = {224: 303_179_776, 336: 303_507_456}
LORA = {"7b": 159_907_840, "13b": 250_347_520}
PROJECTOR = {
    ("mlp", "7b"): 20_979_712,
    ("mlp", "13b"): 31_467_520,
    ("linear", "7b"): 4_198_400,
    ("linear", "13b"): 5_248_000,
}


def count(shapes) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize("name", [name for name in PRESETS if name != "scenes-tiny"])
def test_llava_sizes(name):
    config, size = PRESETS[name], name.rpartition("-")[2]
    shapes = jax.eval_shape(lambda: init_llava(config, jax.random.key(0)))
    assert count(shapes["language"]) == LANGUAGE[size]
    assert count(shapes["vision"]) == VISION[config.vision.image_size]
    assert count(shapes["projector"]) == PROJECTOR[config.projector, size]
    assert count(jax.eval_shape(lambda: init_lora(config, jax.random.key(0)))) == LORA[size]


def test_clip_size():
    shapes = jax.eval_shape(lambda: init_clip(CLIP_PRESETS["clip-vit-large-patch14"], jax.random.key(0)))
    assert count(shapes) == 427_616_513
