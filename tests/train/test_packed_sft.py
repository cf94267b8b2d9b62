"""A packed batch computes what the same conversations do that lie in rows of their own."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention
from small_models import SMALL, assert_close, base_weights, gradients_in, make_batch, role_weights

from vlm_jax.models import attend as attend_module
from vlm_jax.models.llama import empty_cache
from vlm_jax.models.llava import forward, positions_of
from vlm_jax.parallel.compile import jit_step, place, place_batch
from vlm_jax.parallel.mesh import make_mesh
from vlm_jax.train.optim import Optim, start
from vlm_jax.train.sft import SftSettings, sft_step

OPTIM = Optim(3e-3, schedule="constant", clip_norm=1e9)
# Ragged; texts 0, 2, 4 have an image of four positions.
LENGTHS = (12, 7, 10, 14, 9, 3, 8)
# Two images in a row, an image behind a text without one, texts alone, and nothing but padding.
ROWS = ([0, 2], [3, 4, 5], [6, 1], [])
# Odd: a width of which cuDNN has no gradients under a mask.
WIDTH = 27


def packed_by_hand(batch, rows=ROWS, width=WIDTH, images=2):
    """Each row's texts, one behind the other, with segment numbers and pictures."""
    tokens, segments = np.zeros((len(rows), width), np.int32), np.zeros((len(rows), width), np.int32)
    image, loss = np.zeros((len(rows), width), bool), np.zeros((len(rows), width), bool)
    pixels = np.full((len(rows), images, *batch.images.shape[1:]), 255, np.uint8)
    for row, texts in enumerate(rows):
        place = picture = 0
        for number, text in enumerate(texts, 1):
            real = np.asarray(batch.attention_mask[text])
            here = slice(place, place + real.sum())
            tokens[row, here], segments[row, here] = batch.tokens[text][real], number
            image[row, here], loss[row, here] = batch.image_mask[text][real], batch.loss_mask[text][real]
            if image[row, here].any():
                pixels[row, picture] = batch.images[text]
                picture += 1
            place = here.stop
    made = batch.replace(
        tokens=tokens, attention_mask=segments > 0, image_mask=image, loss_mask=loss, images=pixels, segments=segments
    )
    return jax.tree.map(jnp.asarray, made)


@pytest.fixture(scope="module")
def padded():
    return make_batch(LENGTHS, 14)


def one_step(config, base, batch, params, microbatches=1):
    step = jax.jit(functools.partial(sft_step, config, SftSettings(OPTIM, microbatches)))
    return step(base, start(OPTIM, params), batch)


def assert_same_step(found, expected, rtol=1e-5):
    np.testing.assert_allclose(found[1]["loss"], expected[1]["loss"], rtol=rtol)
    assert float(found[1]["tokens"]) == float(expected[1]["tokens"]) > 10
    assert_close(gradients_in(expected[0]), gradients_in(found[0]), rtol)


@pytest.fixture(scope="module")
def expected(config, base, padded):
    return one_step(config, base, padded, {"lora": role_weights()["lora"]})


@pytest.mark.parametrize("microbatches", [1, 2])
def test_loss_and_gradients_of_an_adapter(config, base, role, padded, expected, microbatches):
    found = one_step(config, base, packed_by_hand(padded), {"lora": role["lora"]}, microbatches)
    assert_same_step(found, expected)


def test_the_share_of_padding_is_told(padded, expected, config, base, role):
    found = one_step(config, base, packed_by_hand(padded), {"lora": role["lora"]})
    for (_, metrics), size in ((found, len(ROWS) * WIDTH), (expected, len(LENGTHS) * 14)):
        assert float(metrics["padding"]) == pytest.approx(1 - sum(LENGTHS) / size)


def test_loss_and_gradients_of_all_weights(config, base, padded):
    """The projector's too: features go into the spans of their own texts."""
    trained = {"base": {part: base[part] for part in ("projector", "language")}}
    batches = padded, packed_by_hand(padded)
    plain, packed = (one_step(config, {"vision": base["vision"]}, batch, trained) for batch in batches)
    assert_same_step(packed, plain)


def test_texts_without_any_image(config, base, role, padded):
    texts = padded.replace(
        image_mask=jnp.zeros_like(padded.image_mask), tokens=jnp.where(padded.image_mask, 9, padded.tokens)
    )
    packed = packed_by_hand(texts, images=1)
    assert_same_step(*(one_step(config, base, batch, {"lora": role["lora"]}) for batch in (packed, texts)))


def hidden_of(texts, hidden, batch, rows):
    """States of each text's real positions, in the order of the texts."""
    if rows is None:
        return [np.asarray(hidden[text])[np.asarray(batch.attention_mask[text])] for text in range(texts)]
    found = {}
    for row, members in enumerate(rows):
        for number, text in enumerate(members, 1):
            found[text] = np.asarray(hidden[row])[np.asarray(batch.segments[row]) == number]
    return [found[text] for text in range(texts)]


@pytest.mark.parametrize("how", ["xla", "cudnn", "splash"])
def test_every_attention_stays_within_a_text(how, padded, monkeypatch):
    """cuDNN's way computed by XLA, the kernel of TPUs step by step."""
    plain = jax.nn.dot_product_attention
    asked = []

    def dot_product_attention(*arrays, mask=None, implementation=None, **keywords):
        asked.append(implementation)
        assert implementation != "cudnn" or (mask is not None and arrays[0].shape[1] % 2 == 0)
        return plain(*arrays, mask=mask, **keywords)

    # Heads of 64, as the kernel needs them.
    language = dataclasses.replace(SMALL.language, width=128)
    config = dataclasses.replace(SMALL, language=language)
    base = base_weights(config, std=0.05)
    wanted = hidden_of(len(LENGTHS), forward(config, base, None, padded).hidden, padded, None)
    make = functools.partial(splash_attention.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha", make)
    monkeypatch.setattr(attend_module.jax.nn, "dot_product_attention", dot_product_attention)
    packed = packed_by_hand(padded)
    monkeypatch.setattr(
        "vlm_jax.models.llava.attention_of", lambda config, width: how if width == config.language.head_width else "xla"
    )
    found = hidden_of(len(LENGTHS), forward(config, base, None, packed).hidden, packed, ROWS)
    assert ("cudnn" in asked) == (how == "cudnn")
    for one, other in zip(found, wanted, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * np.abs(other).max())


def test_positions_count_from_0_in_every_text():
    segments = jnp.array([[1, 1, 1, 2, 2, 3, 0, 0], [0] * 8, [1] * 8])
    found = positions_of(segments > 0, None, segments)
    assert found[0, :6].tolist() == [0, 1, 2, 0, 1, 0]
    assert found[2].tolist() == list(range(8))
    assert found.min() >= 0


def test_packed_rows_have_no_cache(config, base, padded):
    packed, cache = packed_by_hand(padded), empty_cache(config.language, len(ROWS), WIDTH, jnp.dtype("float32"))
    with pytest.raises(ValueError, match="packed rows have no cache"):
        forward(config, base, None, packed, cache=cache, prefill=True)


def test_several_devices_compute_what_one_computes(config, base, role, padded, expected):
    mesh = make_mesh(data=2, fsdp=2)
    with jax.set_mesh(mesh):
        state = place(mesh, start(OPTIM, {"lora": role["lora"]}))
        step = jit_step(sft_step, mesh, config, SftSettings(OPTIM), state=state)
        assert_same_step(step(place(mesh, base), state, place_batch(mesh, packed_by_hand(padded))), expected)
