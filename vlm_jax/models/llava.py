"""LLaVA: the one forward pass that training, decoding, scoring and interpretation all use.

    images --vision tower--> patch features --projector--> image embeddings --+
    tokens --embedding table--------------------------------------------------+--> blocks --> norm --> hidden
                                                                                                        |
                                                                          logits(hidden), scores(head, hidden)

``base`` is the nested dict of all frozen or trained weights, ``adapter`` a nested dict of low-rank updates (or None);
choosing a role (policy, reference, reward, value) is choosing an adapter.
"""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Int32, UInt8

from vlm_jax.arrays import Batch, Params
from vlm_jax.config import LlavaConfig
from vlm_jax.models.attend import Implementation, Visible, implementation_for
from vlm_jax.models.attention import Cache, cached_mask, causal_mask
from vlm_jax.models.clip import VisionTower, normalise
from vlm_jax.models.layers import Linear, Remat, loop_blocks, scan_blocks, unstacked
from vlm_jax.models.llama import Adapted, Decoder, decodes_spread
from vlm_jax.models.real_first import real_first
from vlm_jax.parallel.mesh import BATCH_AXES, by_rows, constrain, gathered, platform

Site = Literal["residual", "attention", "mlp"]


class Capture(NamedTuple):
    """Which states come back: blocks counted from 1 (0 is the input of the first block), at one or more sites.

    ``residual`` is the block's output, ``attention`` and ``mlp`` the updates that the block added (zero at layer 0).
    """

    layers: tuple[int, ...]
    sites: tuple[Site, ...] = ("residual",)


class Edit(NamedTuple):
    """A change of block outputs while the pass runs: ``apply`` replaces the output where ``mask`` is True.

    ``layers`` counts blocks from 1; ``apply`` maps [b, t, d] to [b, t, d] and must be pure.
    """

    layers: tuple[int, ...]
    mask: Bool[Array, "b t"]
    apply: Callable[[Float[Array, "b t d"]], Float[Array, "b t d"]]


@flax.struct.dataclass
class Output:
    """``hidden`` has passed the final norm; ``states[site]`` is stacked in the order of ``capture.layers``."""

    hidden: Float[Array, "b t d"]
    cache: Cache | None
    states: dict[str, Float[Array, "c b t d"]]


class Projector(nnx.Module):
    """Patch features into the decoder's width: one linear map (LLaVA v1, LLaVA-RLHF) or two around exact GELU (1.5)."""

    def __init__(self, config: LlavaConfig, rngs: nnx.Rngs):
        width = config.language.width
        self.linear1 = Linear(config.vision.width, width, bias=True, rngs=rngs)
        self.linear2 = Linear(width, width, bias=True, rngs=rngs) if config.projector == "mlp" else None

    def __call__(self, features: Float[Array, "b p e"]) -> Float[Array, "b p d"]:
        x = self.linear1(features)
        return x if self.linear2 is None else self.linear2(jax.nn.gelu(x, approximate=False))


class Llava(nnx.Module):
    """The blueprint: names and shapes of every weight."""

    def __init__(self, config: LlavaConfig, rngs: nnx.Rngs):
        self.vision = VisionTower(config.vision, rngs)
        self.projector = Projector(config, rngs)
        self.language = Decoder(config.language, rngs)


def init_llava(config: LlavaConfig, key: Array) -> Params:
    """Fresh float32 weights as a nested dict; under ``jax.eval_shape`` the shapes alone."""
    return nnx.to_pure_dict(nnx.state(Llava(config, nnx.Rngs(key))))


@functools.cache
def _blueprint(config: LlavaConfig) -> nnx.GraphDef:
    return nnx.graphdef(nnx.eval_shape(lambda: Llava(config, nnx.Rngs(0))))


def _model(config: LlavaConfig, base: Params) -> Llava:
    return nnx.merge(_blueprint(config), base)


def blocks_apart(config: LlavaConfig, base: Params) -> Params:
    """The base with each block of the decoder by itself, see ``layers.loop_blocks``. Adapters are taken apart by
    ``layers.unstacked`` alike."""
    language = base["language"]
    apart = unstacked(language["blocks"], config.language.layers)
    return {**base, "language": {**language, "blocks": apart}}


def encode_images(config: LlavaConfig, base: Params, images: UInt8[Array, "b h w 3"]) -> Float[Array, "b p d"]:
    """8-bit images to embeddings in the decoder's width."""
    model = _model(config, base)
    how = attention_of(config, config.vision.width // config.vision.heads)
    return model.projector(model.vision.patch_features(normalise(images, jnp.dtype(config.dtype)), how))


def splice(
    text: Float[Array, "b t d"], image: Float[Array, "b p d"], image_mask: Bool[Array, "b t"]
) -> Float[Array, "b t d"]:
    """Put the k-th image embedding of a row at the row's k-th masked position."""

    def of_rows(text, image, image_mask):
        index = jnp.clip(jnp.cumsum(image_mask, 1) - 1, 0, image.shape[1] - 1)
        return jnp.where(image_mask[..., None], jnp.take_along_axis(image, index[..., None], axis=1), text)

    return by_rows(of_rows, text, image, image_mask)


def _embed(config: LlavaConfig, base: Params, batch: Batch) -> Float[Array, "b t d"]:
    """Token embeddings with image embeddings in their places, in the config's dtype."""
    # The placeholder id may have no row in the table: look up row 0 there, its embedding is replaced below.
    ids = jnp.where(batch.image_mask, 0, batch.tokens)
    x = base["language"]["embedding"][ids].astype(jnp.dtype(config.dtype))
    if batch.images is not None:
        x = splice(x, _images_of_rows(config, base, batch.images), batch.image_mask)
    return constrain(x, BATCH_AXES)


def _images_of_rows(
    config: LlavaConfig, base: Params, images: UInt8[Array, "b h w 3"] | UInt8[Array, "b n h w 3"]
) -> Float[Array, "b p d"]:
    """Embeddings of a row's images, one image's behind the other's."""
    if images.ndim == 4:
        return encode_images(config, base, images)
    rows, places, *square = images.shape
    features = encode_images(config, base, images.reshape(rows * places, *square))
    return features.reshape(rows, -1, features.shape[-1])


def positions_of(
    attention_mask: Bool[Array, "b t"], cache: Cache | None, segments: Int32[Array, "b t"] | None = None
) -> Int32[Array, "b t"]:
    """Rotary positions: real tokens count from 0, padding does not count. Each of several texts in a row, which have no
    padding between them, counts for itself."""
    if segments is not None:
        places = jnp.arange(segments.shape[1], dtype=jnp.int32)
        begins = jnp.diff(segments, axis=1, prepend=-1) != 0
        return places - jax.lax.cummax(jnp.where(begins, places, 0), axis=1)
    before = 0 if cache is None else cache.mask.sum(1, keepdims=True)
    return jnp.maximum(before + jnp.cumsum(attention_mask, 1) - 1, 0).astype(jnp.int32)


def forward(
    config: LlavaConfig,
    base: Params,
    adapter: Params | tuple[Params, ...] | None,
    batch: Batch,
    *,
    cache: Cache | None = None,
    prefill: bool = False,
    capture: Capture | None = None,
    edit: Edit | None = None,
) -> Output:
    """Hidden states of a batch.

    Args:
        config: Static shapes and dtypes.
        base: Weights from :func:`init_llava` or a checkpoint.
        adapter: Low-rank updates from ``adapters.init_lora``, or None; taken apart by layers where the base is.
        batch: See :class:`vlm_jax.arrays.Batch`.
        cache: Keys and values of earlier positions; the batch is then the continuation (or, for an empty cache, the
            left-padded prompt) and the returned cache holds it too.
        prefill: The cache is empty: its slots are filled and not read.
        capture: States to return beside the final ones.
        edit: A change of block outputs.

    Raises:
        ValueError: ``capture`` or ``edit`` names a layer that the model does not have; packed rows with a cache.
    """
    _check_layers(config, capture, edit)
    if batch.segments is not None and cache is not None:
        raise ValueError("packed rows have no cache")
    x = _embed(config, base, batch)
    positions = positions_of(batch.attention_mask, cache, batch.segments)
    how: Implementation = attention_of(config, config.language.head_width)
    order = None
    if cache is not None:
        slots = jax.lax.dynamic_update_slice(cache.mask, batch.attention_mask, (0, cache.used))
        cache = cache.replace(mask=slots)
    if cache is None and how == "cudnn" and batch.segments is None:
        # Without a mask this kernel takes half the time.
        order, visible = real_first(batch.attention_mask), Visible(causal=True)
        x, positions = order.turn(x), order.turn(positions)
        edit = edit and edit._replace(mask=order.turn(edit.mask))
    elif cache is None or prefill:
        visible = _whole(batch, how)
    else:
        # One query, or few: there is nothing that a kernel could save.
        visible, how = Visible(mask=cached_mask(slots, cache.used, x.shape[1])), "xla"

    states = _first_states(capture, x)
    scale = config.lora.scale

    def body(block, carry, layer_input):
        x, cache, states = carry
        layer, adapter_weights = layer_input
        if not decodes_spread(cache, prefill):
            adapter_weights = gathered(adapter_weights, x.dtype)
        out = block(x, positions, visible, how, Adapted(adapter_weights, scale), layer, cache, prefill)
        x = constrain(_edited(edit, layer + 1, out.hidden), BATCH_AXES)
        states = _record(capture, states, layer + 1, {"residual": x, "attention": out.attention, "mlp": out.mlp})
        return x, out.cache, states

    remat = config.remat if cache is None else "none"
    model, (x, cache, states) = _run(config, base, adapter, body, (x, cache, states), remat)
    if order is not None:
        x, states = order.restore(x), jax.tree.map(jax.vmap(order.restore), states)
    if cache is not None:
        cache = cache.replace(used=cache.used + x.shape[1])
    return Output(hidden=model.language.norm(x), cache=cache, states=states)


def _run(
    config: LlavaConfig,
    base: Params,
    adapter: Params | tuple[Params, ...] | None,
    body: Callable,
    carry: Any,
    remat: Remat,
) -> tuple[Llava, Any]:
    """The model, and what its blocks make of ``carry``, one after the other."""
    layers = config.language.layers
    if config.unroll and carry[1] is None and not isinstance(base["language"]["blocks"], tuple):
        base, adapter = blocks_apart(config, base), adapter and unstacked(adapter, layers)
    blocks = base["language"]["blocks"]
    if not isinstance(blocks, tuple):
        model = _model(config, base)
        return model, scan_blocks(model.language.blocks, body, carry, (jnp.arange(layers), adapter), remat=remat)
    model = _model(config, {**base, "language": {**base["language"], "blocks": blocks[0]}})
    graphdef = nnx.graphdef(model.language.blocks)
    modules = [nnx.merge(graphdef, weights) for weights in blocks]
    return model, loop_blocks(modules, body, carry, list(enumerate(adapter or [None] * layers)), remat=remat)


def attention_of(config: LlavaConfig, head_width: int) -> Implementation:
    """What computes attention where the arrays are, see :func:`vlm_jax.models.attend.implementation_for`."""
    return implementation_for(config.attention, platform(), config.dtype, head_width)


def _whole(batch: Batch, how: Implementation) -> Visible:
    """What positions of whole sequences read: themselves and the real ones of their text before."""
    if how == "splash":
        real = batch.attention_mask.astype(jnp.int32)
        return Visible(causal=True, segments=real if batch.segments is None else batch.segments)
    return Visible(mask=causal_mask(batch.attention_mask), segments=batch.segments)


def _check_layers(config: LlavaConfig, capture: Capture | None, edit: Edit | None) -> None:
    last = config.language.layers
    for what, first, asked in (("captured", 0, capture), ("edited", 1, edit)):
        if odd := [layer for layer in (asked.layers if asked else ()) if not first <= layer <= last]:
            raise ValueError(f"layers {odd} cannot be {what}: they run from {first} to {last}")


def _first_states(capture: Capture | None, x: Float[Array, "b t d"]) -> dict[str, Array]:
    """Buffers for the captured states, layer 0 filled in."""
    if capture is None:
        return {}
    buffers = {site: jnp.zeros((len(capture.layers), *x.shape), x.dtype) for site in capture.sites}
    return _record(capture, buffers, jnp.int32(0), {"residual": x})


def _record(
    capture: Capture | None, buffers: dict[str, Array], layer: Int32[Array, ""] | int, values: dict[str, Array]
) -> dict[str, Array]:
    """Write this layer's states into the slots that ask for it. Only captured layers take memory."""
    if capture is None:
        return buffers
    here = (jnp.array(capture.layers) == layer)[:, None, None, None]
    return {site: jnp.where(here, values[site], buf) if site in values else buf for site, buf in buffers.items()}


def _edited(edit: Edit | None, layer: Int32[Array, ""] | int, hidden: Float[Array, "b t d"]) -> Float[Array, "b t d"]:
    if edit is None:
        return hidden
    where = jnp.isin(layer, jnp.array(edit.layers)) & edit.mask
    return jnp.where(where[..., None], edit.apply(hidden), hidden)


def logits(config: LlavaConfig, base: Params, hidden: Float[Array, "b t d"]) -> Float[Array, "b t v"]:
    """Vocabulary logits in float32. Ask only for the positions that are needed: this is the largest array of a step."""
    kernel = base["language"]["head"]["kernel"].astype(hidden.dtype)
    return constrain(_vocabulary_product(hidden, kernel), BATCH_AXES, None, "tensor")


@jax.custom_vjp
def _vocabulary_product(hidden: Array, kernel: Array) -> Float[Array, "b t v"]:
    return jnp.einsum("btd,dv->btv", hidden, kernel, preferred_element_type=jnp.float32)


def _vocabulary_forward(hidden: Array, kernel: Array) -> tuple[Array, tuple[Array, Array]]:
    return _vocabulary_product(hidden, kernel), (hidden, kernel)


def _vocabulary_backward(kept: tuple[Array, Array], gradient: Float[Array, "b t v"]) -> tuple[Array, Array]:
    """In the type of the arithmetic, as torch has it, where the gradient alone is float32: two products of float32
    arrays would take several times as long."""
    hidden, kernel = kept
    gradient = gradient.astype(hidden.dtype)
    return jnp.einsum("btv,dv->btd", gradient, kernel), jnp.einsum("btd,btv->dv", hidden, gradient)


_vocabulary_product.defvjp(_vocabulary_forward, _vocabulary_backward)


def scores(head: Params, hidden: Float[Array, " *b d"]) -> Float[Array, " *b"]:
    """A scalar head (reward or value) in float32: ``{"kernel": [d], "bias": []}``."""
    wide = hidden.astype(jnp.float32)
    # Accelerators multiply float32 matrices in fewer bits unless told not to.
    return jnp.matmul(wide, head["kernel"], precision=jax.lax.Precision.HIGHEST) + head["bias"]
