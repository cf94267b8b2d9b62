"""CLIP's two towers (Radford et al. 2021), weights laid out as transformers' CLIPModel computes them."""

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32, UInt8

from vlm_jax.arrays import Params
from vlm_jax.config import CLIP_MEAN, CLIP_STD, ClipConfig, ClipTextConfig, VisionConfig
from vlm_jax.models.attend import Implementation, Visible
from vlm_jax.models.attention import Attention, causal_mask
from vlm_jax.models.layers import Embedding, LayerNorm, Linear, scan_blocks, stack
from vlm_jax.parallel.mesh import BATCH_AXES, constrain

_ALL = Visible()


def quick_gelu(x: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """OpenAI's sigmoid approximation of GELU."""
    return x * jax.nn.sigmoid(1.702 * x)


def normalise(images: UInt8[Array, "b h w 3"], dtype: jnp.dtype) -> Float[Array, "b h w 3"]:
    """8-bit RGB to CLIP's zero-mean, unit-variance channels."""
    scaled = images.astype(jnp.float32) / 255.0
    return ((scaled - jnp.array(CLIP_MEAN)) / jnp.array(CLIP_STD)).astype(dtype)


class Mlp(nnx.Module):
    """Two linear maps around quick GELU."""

    def __init__(self, width: int, hidden: int, rngs: nnx.Rngs):
        self.up = Linear(width, hidden, bias=True, rngs=rngs)
        self.down = Linear(hidden, width, bias=True, rngs=rngs)

    def __call__(self, x: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
        return self.down(quick_gelu(self.up(x)))


class Block(nnx.Module):
    """Pre-norm transformer block with biases everywhere."""

    def __init__(self, config: VisionConfig | ClipTextConfig, rngs: nnx.Rngs):
        self.norm1 = LayerNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads, config.heads, bias=True, rngs=rngs)
        self.norm2 = LayerNorm(config.width, config.norm_eps)
        self.mlp = Mlp(config.width, config.mlp_width, rngs)

    def __call__(
        self, x: Float[Array, "b t d"], visible: Visible = _ALL, implementation: Implementation = "xla"
    ) -> Float[Array, "b t d"]:
        mixed = self.attention.mix(*self.attention.qkv(self.norm1(x)), visible, implementation)
        x = x + self.attention.out(mixed)
        return x + self.mlp(self.norm2(x))


class VisionTower(nnx.Module):
    """Patches and a class token through L pre-norm blocks.

    LLaVA reads the patch states that leave block L - 1, before ``post_norm``; the class token is dropped there.
    """

    def __init__(self, config: VisionConfig, rngs: nnx.Rngs):
        pixels = config.patch_size**2 * 3
        self.class_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.width,)))
        self.patch_embedding = Linear(pixels, config.width, bias=False, rngs=rngs)
        self.position_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.patches + 1, config.width)))
        self.pre_norm = LayerNorm(config.width, config.norm_eps)
        self.blocks = stack(lambda r: Block(config, r), config.layers, rngs)
        self.post_norm = LayerNorm(config.width, config.norm_eps)
        self.config = config

    def embed(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b t d"]:
        """Class token first, then patches row by row; positions added and the (misspelt) pre_layrnorm applied."""
        size = self.config.patch_size
        patches = rearrange(images, "b (y i) (x j) c -> b (y x) (i j c)", i=size, j=size)
        # Pinned, as every block's output is: the compiler would rather split the kernels' inner sides, and every device
        # would hold the whole batch.
        patches = constrain(self.patch_embedding(patches), BATCH_AXES)
        first = jnp.broadcast_to(self.class_embedding[...].astype(patches.dtype), (len(images), 1, patches.shape[-1]))
        tokens = jnp.concatenate([first, patches], 1) + self.position_embedding[...].astype(patches.dtype)
        return self.pre_norm(tokens)

    def run(
        self, images: Float[Array, "b h w 3"], layers: int, implementation: Implementation = "xla"
    ) -> Float[Array, "b t d"]:
        """States after the first ``layers`` blocks, class token included."""

        def body(block, x, _):
            return constrain(block(x, implementation=implementation), BATCH_AXES)

        return scan_blocks(self.blocks, body, self.embed(images), layers=layers)

    def patch_features(
        self, images: Float[Array, "b h w 3"], implementation: Implementation = "xla"
    ) -> Float[Array, "b p d"]:
        """What LLaVA's projector reads (LLaVA ``clip_encoder.py``: ``hidden_states[-2]`` without CLS)."""
        return self.run(images, self.config.blocks_run, implementation)[:, 1:]

    def pooled(self, images: Float[Array, "b h w 3"]) -> Float[Array, "b d"]:
        """The normed class token after all blocks: CLIP's image embedding before its projection."""
        return self.post_norm(self.run(images, self.config.layers)[:, 0])


class TextTower(nnx.Module):
    """Causal transformer; the embedding of a text is the normed state of its last real token."""

    def __init__(self, config: ClipTextConfig, rngs: nnx.Rngs):
        self.embedding = Embedding(config.vocab_size, config.width, rngs).table
        self.position_embedding = nnx.Param(0.02 * jax.random.normal(rngs.params(), (config.positions, config.width)))
        self.blocks = stack(lambda r: Block(config, r), config.layers, rngs)
        self.final_norm = LayerNorm(config.width, config.norm_eps)

    def pooled(self, tokens: Int32[Array, "b t"], attention_mask: Bool[Array, "b t"]) -> Float[Array, "b d"]:
        """Embeddings of right-padded texts whose last real token is the end token."""
        x = self.embedding[...][tokens] + self.position_embedding[...][: tokens.shape[1]]
        visible = Visible(mask=causal_mask(attention_mask))
        x = self.final_norm(scan_blocks(self.blocks, lambda block, h, _: block(h, visible), x))
        last = attention_mask.sum(1) - 1
        return jnp.take_along_axis(x, last[:, None, None], axis=1)[:, 0]


class Clip(nnx.Module):
    """Both towers, their projections, and the learned temperature."""

    def __init__(self, config: ClipConfig, rngs: nnx.Rngs):
        self.vision = VisionTower(config.vision, rngs)
        self.text = TextTower(config.text, rngs)
        self.visual_projection = Linear(config.vision.width, config.projection_width, bias=False, rngs=rngs)
        self.text_projection = Linear(config.text.width, config.projection_width, bias=False, rngs=rngs)
        self.logit_scale = nnx.Param(jnp.log(1 / 0.07))

    def __call__(
        self,
        images: Float[Array, "b h w 3"],
        tokens: Int32[Array, "c t"],
        attention_mask: Bool[Array, "c t"],
    ) -> Float[Array, "b c"]:
        """Scaled cosine similarity of every image with every text."""

        def unit(x):
            return x / jnp.linalg.norm(x, axis=-1, keepdims=True)

        visual = unit(self.visual_projection(self.vision.pooled(images)))
        textual = unit(self.text_projection(self.text.pooled(tokens, attention_mask)))
        return jnp.exp(self.logit_scale[...]) * visual @ textual.T


def init_clip(config: ClipConfig, key: Array) -> Params:
    """Fresh float32 weights of both towers as a nested dict."""
    return nnx.to_pure_dict(nnx.state(Clip(config, nnx.Rngs(key))))


def clip_model(config: ClipConfig, weights: Params) -> Clip:
    """The module over a nested dict of weights; call inside a jitted function."""
    return nnx.merge(nnx.graphdef(nnx.eval_shape(lambda: Clip(config, nnx.Rngs(0)))), weights)
