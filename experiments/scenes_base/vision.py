"""Stage 1 of the tiny model: the vision tower, from CLIP's contrast and from naming what stands in each cell.

Contrast alone does not teach this world's kinds: colour and ground tell a batch of pictures apart. So every picture's
caption meets, beside the other captions of the batch, a copy of itself with one kind replaced; and a linear probe on
the penultimate patch states, which the projector will read, names kind, colour and size of each cell.
"""

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Int32, UInt8

from vlm_jax.arrays import Params
from vlm_jax.config import ClipConfig
from vlm_jax.models.clip import clip_model, init_clip, normalise
from vlm_jax.scenes.draw import draw
from vlm_jax.scenes.language import NOUNS, captions
from vlm_jax.scenes.world import COLOURS, GRID, KINDS, LETTERS, SIZES, Scene, absent_kinds, scene
from vlm_jax.train.losses import masked_mean
from vlm_jax.train.optim import Optim, TrainState, apply_gradients

# What a cell can hold: nothing, a thing of some kind, or a letter.
CONTENTS = ("nothing", *KINDS, *LETTERS)
_PROBES = {"content": len(CONTENTS), "colour": len(COLOURS), "size": len(SIZES)}


@flax.struct.dataclass
class VisionBatch:
    """``captions`` has 2c rows for the first c pictures: true ones, then the same with one kind replaced. Labels of
    empty cells are 0 and only ``content`` counts there."""

    images: UInt8[Array, "b h w 3"]
    captions: Int32[Array, "c t"]
    caption_mask: Bool[Array, "c t"]
    content: Int32[Array, "b p"]
    colour: Int32[Array, "b p"]
    size: Int32[Array, "b p"]


@dataclasses.dataclass(frozen=True)
class VisionSettings:
    optim: Optim
    contrast_weight: float = 0.3


def init_vision(config: ClipConfig, key: Array) -> Params:
    """Both towers and the probes."""
    width = config.vision.width
    probes = {name: {"kernel": jnp.zeros((width, classes))} for name, classes in _PROBES.items()}
    return {"clip": init_clip(config, key), "classifier": probes}


def vision_step(
    config: ClipConfig, settings: VisionSettings, base: Params, state: TrainState, batch: VisionBatch
) -> tuple[TrainState, dict[str, Array]]:
    """One update of towers and probes. ``base`` is empty: everything is trained."""

    def loss(params):
        model = clip_model(config, params["clip"])
        pixels = normalise(batch.images, jnp.float32)
        features = model.vision.patch_features(pixels)
        standing = batch.content > 0
        thing = standing & (batch.content <= len(KINDS))
        named = {"content": jnp.ones_like(standing), "colour": thing, "size": thing}
        losses, right = {}, {}
        for name, mask in named.items():
            scores, labels = features @ params["classifier"][name]["kernel"], getattr(batch, name)
            values = optax.softmax_cross_entropy_with_integer_labels(scores, labels)
            losses[name] = masked_mean(values, mask)
            hits = (scores.argmax(-1) == labels).astype(jnp.float32)
            right[name] = masked_mean(hits, thing)
        pairs = jnp.arange(len(batch.captions) // 2)
        similarity = model(pixels[: len(pairs)], batch.captions, batch.caption_mask)
        contrast = (
            optax.softmax_cross_entropy_with_integer_labels(similarity, pairs).mean()
            + optax.softmax_cross_entropy_with_integer_labels(similarity[:, : len(pairs)].T, pairs).mean()
        ) / 2
        matched = (similarity.argmax(1) == pairs).mean(dtype=jnp.float32)
        metrics = {f"{name}_accuracy": value for name, value in right.items()}
        metrics |= {"contrast": contrast, "matched": matched, "content_loss": losses["content"]}
        return sum(losses.values()) + settings.contrast_weight * contrast, metrics

    gradients, metrics = jax.grad(loss, has_aux=True)(state.params)
    state, optimizer_metrics = apply_gradients(settings.optim, state, gradients)
    return state, metrics | optimizer_metrics


def _wrong_caption(caption: str, here: Scene, rng: np.random.Generator) -> str:
    """The caption with one of its kinds replaced by an absent one."""
    words = caption.replace(",", " ,").replace(".", " .").split()
    nouns = {word: kind for kind, forms in NOUNS.items() for form in forms for word in form}
    places = [i for i, word in enumerate(words) if word in nouns]
    other = absent_kinds(here)[int(rng.integers(len(absent_kinds(here))))]
    place = places[int(rng.integers(len(places)))]
    plural = words[place] in {form[1] for form in NOUNS[nouns[words[place]]]} and words[place] != "fish"
    words[place] = NOUNS[other][0][plural]
    return " ".join(words).replace(" ,", ",").replace(" .", ".")


def _labels(here: Scene) -> np.ndarray:
    """[3, cells]: content, colour, size."""
    labels = np.zeros((3, GRID * GRID), np.int32)
    for thing in here.things:
        labels[:, thing.cell] = (
            CONTENTS.index(thing.kind),
            COLOURS.index(thing.colour),
            SIZES.index(thing.size),
        )
    if here.letter is not None:
        # Letters follow the kinds; "A" is no kind, so the index cannot be mistaken.
        labels[0, here.letter_cell] = CONTENTS.index(here.letter)
    return labels


@dataclasses.dataclass(frozen=True)
class VisionSource:
    """Random-access batches: batch i holds scenes i*b .. (i+1)*b - 1 of the training split, drawn when asked for."""

    tokenizer: Any
    batches: int
    batch_size: int = 64
    captioned: int = 16
    length: int = 32
    seed: int = 0

    def __len__(self) -> int:
        return self.batches

    def __getitem__(self, number: int) -> VisionBatch:
        start = number * self.batch_size
        scenes = [scene("train", index, seed=self.seed) for index in range(start, start + self.batch_size)]
        rng = np.random.Generator(np.random.Philox(key=number))
        captioned = scenes[: self.captioned]
        true = [captions(here)[int(rng.integers(5))] for here in captioned]
        false = [_wrong_caption(text, here, rng) for text, here in zip(true, captioned, strict=True)]
        labels = np.stack([_labels(here) for here in scenes])
        tokens = np.zeros((2 * self.captioned, self.length), np.int32)
        mask = np.zeros_like(tokens, bool)
        for row, text in enumerate(true + false):
            ids = [*self.tokenizer(text).input_ids[: self.length - 1], self.tokenizer.eos_token_id]
            tokens[row, : len(ids)], mask[row, : len(ids)] = ids, True
        images = np.stack([draw(here) for here in scenes])
        return VisionBatch(images, tokens, mask, *labels.swapaxes(0, 1))
