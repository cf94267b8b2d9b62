"""CLIP against transformers' CLIPModel, float32."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from torch_weights import randomise, tree_of

from vlm_jax.checkpoints.layouts import HF_CLIP
from vlm_jax.config import CLIP_MEAN, CLIP_STD, ClipConfig, ClipTextConfig, VisionConfig
from vlm_jax.models.clip import clip_model, init_clip, normalise

FLOAT = jnp.dtype("float32")
EVEN = ClipConfig(
    vision=VisionConfig(image_size=28, patch_size=7, width=32, layers=4, heads=4, mlp_width=64),
    text=ClipTextConfig(vocab_size=50, positions=12, width=32, layers=2, heads=4, mlp_width=64),
    projection_width=16,
)
ODD = ClipConfig(
    vision=VisionConfig(image_size=33, patch_size=11, width=35, layers=3, heads=5, mlp_width=47, norm_eps=1e-3),
    text=ClipTextConfig(vocab_size=37, positions=9, width=21, layers=3, heads=3, mlp_width=29),
    projection_width=13,
)


@pytest.fixture(scope="module", params=[EVEN, ODD], ids=["even", "odd"])
def pair(request):
    config = request.param
    vision, text = config.vision, config.text
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config={
                "image_size": vision.image_size,
                "patch_size": vision.patch_size,
                "hidden_size": vision.width,
                "num_hidden_layers": vision.layers,
                "num_attention_heads": vision.heads,
                "intermediate_size": vision.mlp_width,
                "layer_norm_eps": vision.norm_eps,
            },
            text_config={
                "vocab_size": text.vocab_size,
                "max_position_embeddings": text.positions,
                "hidden_size": text.width,
                "num_hidden_layers": text.layers,
                "num_attention_heads": text.heads,
                "intermediate_size": text.mlp_width,
                "eos_token_id": text.vocab_size - 1,
            },
            projection_dim=config.projection_width,
        )
    )
    model = randomise(model)
    weights = tree_of(model, HF_CLIP, lambda: init_clip(config, jax.random.key(0)))
    return config, model, weights


def make_images(config: ClipConfig) -> jax.Array:
    side = config.vision.image_size
    return jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, side, side, 3)), jnp.uint8)


def pixels(images: jax.Array):
    scaled = (np.asarray(images, np.float32) / 255 - np.array(CLIP_MEAN)) / np.array(CLIP_STD)
    return torch.tensor(scaled.astype(np.float32)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("layer", [-2, -1, 1])
def test_patch_features(pair, layer):
    config, model, weights = pair
    images = make_images(config)
    with torch.no_grad():
        states = model.vision_model(pixels(images), output_hidden_states=True).hidden_states
    # Features of an earlier block need no change of weights, only fewer of them.
    layers = layer % (config.vision.layers + 1)
    tower = clip_model(config, weights).vision
    ours = tower.run(normalise(images, FLOAT), layers)
    np.testing.assert_allclose(ours, states[layer].numpy(), atol=1e-4, rtol=0)
    if layer == -2:
        np.testing.assert_array_equal(tower.patch_features(normalise(images, FLOAT)), ours[:, 1:])


def test_similarity_of_images_and_texts(pair):
    config, model, weights = pair
    images, end = make_images(config), config.text.vocab_size - 1
    tokens = np.random.default_rng(1).integers(1, end, (4, 8)).astype(np.int32)
    lengths = np.array([8, 3, 5, 6])
    mask = np.arange(8) < lengths[:, None]
    tokens[~mask] = 0
    tokens[np.arange(4), lengths - 1] = end
    with torch.no_grad():
        theirs = model(
            pixel_values=pixels(images),
            input_ids=torch.tensor(tokens).long(),
            attention_mask=torch.tensor(mask).long(),
        ).logits_per_image.numpy()
    similarity = jax.jit(lambda weights, *inputs: clip_model(config, weights)(*inputs))
    ours = similarity(weights, normalise(images, FLOAT), tokens, mask)
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)
