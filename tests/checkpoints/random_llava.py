"""A small random LLaVA, a batch for it, and its logits by our forward pass and by transformers'."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from vlm_jax.arrays import Batch
from vlm_jax.config import LanguageConfig, LlavaConfig, LoraConfig, VisionConfig
from vlm_jax.models.clip import normalise
from vlm_jax.models.llava import forward, init_llava, logits

CONFIG = LlavaConfig(
    vision=VisionConfig(image_size=28, patch_size=7, width=36, layers=3, heads=3, mlp_width=50),
    language=LanguageConfig(
        vocab_size=61,
        width=48,
        layers=3,
        heads=6,
        kv_heads=2,
        mlp_width=40,
        rope_theta=5000.0,
        max_positions=64,
    ),
    lora=LoraConfig(rank=3, alpha=6.0),
    image_token_id=60,
    dtype="float32",
    remat="none",
)
LINEAR = dataclasses.replace(CONFIG, projector="linear")
# As in LLaVA-RLHF: the image id lies beyond the table.
OUTSIDE = dataclasses.replace(LINEAR, image_token_id=61)


def random_base(config: LlavaConfig):
    """Weights large enough that every one of them shows in the logits."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: init_llava(config, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (0.15 * rng.standard_normal(leaf.shape) + (path[-1].key == "scale")).astype(np.float32),
        shapes,
    )


def llama_config(language: LanguageConfig, **more) -> transformers.LlamaConfig:
    """The decoder's shapes in transformers' words."""
    return transformers.LlamaConfig(
        vocab_size=language.vocab_size,
        hidden_size=language.width,
        num_hidden_layers=language.layers,
        num_attention_heads=language.heads,
        num_key_value_heads=language.kv_heads,
        intermediate_size=language.mlp_width,
        rms_norm_eps=language.norm_eps,
        max_position_embeddings=language.max_positions,
        rope_theta=language.rope_theta,  # transformers 4
        rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
        **more,
    )


def torch_llava(config: LlavaConfig, dtype: torch.dtype = torch.float32) -> transformers.LlavaForConditionalGeneration:
    """A random LLaVA of transformers; a linear projector is followed by the identity."""
    torch.manual_seed(0)
    vision, language = config.vision, config.language
    theirs = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_size=vision.width,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            intermediate_size=vision.mlp_width,
        ),
        text_config=llama_config(language),
        image_token_index=config.image_token_id,
        projector_hidden_act={"mlp": "gelu", "linear": "linear"}[config.projector],
    )
    model = transformers.LlavaForConditionalGeneration(theirs)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
        if config.projector == "linear":
            second = model.model.multi_modal_projector.linear_2
            second.weight.copy_(torch.eye(language.width))
            second.bias.zero_()
    return model.to(dtype).eval()


def make_batch(config: LlavaConfig) -> Batch:
    """A row with an image, a left-padded row with an image, and a row of text alone."""
    rng, patches, length = np.random.default_rng(0), config.vision.patches, 26
    tokens = rng.integers(4, 60, (3, length))
    image_mask, attention_mask = np.zeros((2, 3, length), bool)
    attention_mask[:] = True
    attention_mask[1, :5] = False
    image_mask[0, 2 : 2 + patches] = image_mask[1, 7 : 7 + patches] = True
    tokens[image_mask], tokens[~attention_mask] = config.image_token_id, 0
    side = config.vision.image_size
    images = rng.integers(0, 256, (3, side, side, 3)).astype(np.uint8)
    images[2] = 0
    return Batch(
        tokens=jnp.array(tokens, jnp.int32),
        attention_mask=jnp.array(attention_mask),
        image_mask=jnp.array(image_mask),
        loss_mask=jnp.array(attention_mask),
        images=jnp.array(images),
    )


def our_logits(config: LlavaConfig, base, batch: Batch) -> np.ndarray:
    config = dataclasses.replace(config, dtype="float32")
    run = jax.jit(lambda base, batch: logits(config, base, forward(config, base, None, batch).hidden))
    return np.asarray(run(base, batch))


def torch_logits(folder, batch: Batch) -> np.ndarray:
    """Of a checkpoint in transformers' layout."""
    return logits_of(transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32), batch)


def logits_of(model: transformers.LlavaForConditionalGeneration, batch: Batch) -> np.ndarray:
    images = np.array(normalise(batch.images, jnp.dtype("float32")))[np.asarray(batch.image_mask.any(1))]
    with torch.no_grad():
        out = model.eval()(
            input_ids=torch.tensor(np.array(batch.tokens)).long(),
            attention_mask=torch.tensor(np.array(batch.attention_mask)).long(),
            pixel_values=torch.tensor(images).permute(0, 3, 1, 2),
        )
    return out.logits.numpy()


def assert_close_on_real(ours: np.ndarray, theirs: np.ndarray, batch: Batch) -> None:
    real = np.asarray(batch.attention_mask)
    assert np.abs(theirs[real]).max() > 1
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4, rtol=0)


def assert_same_tree(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))
