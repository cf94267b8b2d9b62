"""Decoding over a cache against the full forward pass, and the book-keeping around the end of an answer."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_llava import SMALL
from test_sampling import distribution

from vlm_jax.arrays import Batch, EvalBatch
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.conversation import TEMPLATES
from vlm_jax.errors import InputError
from vlm_jax.generate import decode
from vlm_jax.generate.answers import answer
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Sampling
from vlm_jax.interpret.edit_at import EditAt
from vlm_jax.models.adapters import init_lora
from vlm_jax.models.llava import forward, logits
from vlm_jax.parallel.compile import place, place_batch
from vlm_jax.parallel.mesh import make_mesh

NEW = 9
GREEDY = Sampling(max_new_tokens=NEW, temperature=0.0)
KEY = jax.random.key(5)

run = jax.jit(generate, static_argnums=(0, 5, 6))


@functools.partial(jax.jit, static_argnums=2)
def all_logits(base, batch, edit=None):
    return logits(SMALL, base, forward(SMALL, base, None, batch, edit=edit and edit(batch)).hidden)


def extended(prompts, tokens, mask) -> Batch:
    """Prompts followed by answer tokens."""
    nothing = jnp.zeros_like(mask)
    return Batch(
        tokens=jnp.concatenate([prompts.tokens, tokens], 1),
        attention_mask=jnp.concatenate([prompts.attention_mask, mask], 1),
        image_mask=jnp.concatenate([prompts.image_mask, nothing], 1),
        loss_mask=jnp.concatenate([prompts.loss_mask, nothing], 1),
        images=prompts.images,
    )


def uncached_greedy(config, base, prompts, new=NEW, edit=None):
    """Argmax of a full forward pass, one token at a time, the placeholder left out."""
    rows, width = prompts.tokens.shape
    tokens, mask = np.zeros((rows, new), np.int32), np.zeros((rows, new), bool)
    for step in range(new):
        scores = np.array(all_logits(base, extended(prompts, jnp.asarray(tokens), jnp.asarray(mask)), edit))
        scores = scores[:, width + step - 1]
        if config.image_token_id < scores.shape[1]:
            scores[:, config.image_token_id] = -np.inf
        tokens[:, step], mask[:, step] = scores.argmax(-1), True
    return tokens


@pytest.fixture(scope="module")
def greedy(config, base, prompts):
    """Tokens that nothing ends."""
    return np.asarray(run(config, base, None, prompts, KEY, GREEDY).tokens)


def test_cached_greedy_equals_full_forwards(config, base, prompts, greedy):
    np.testing.assert_array_equal(greedy, uncached_greedy(config, base, prompts))
    assert len(np.unique(greedy)) > 5  # Not one token over and over.


@pytest.mark.parametrize("at", ["image", "text"])
def test_an_edit_in_cached_decoding_equals_the_edit_in_full_forwards(at, config, base, prompts, greedy):
    edit = EditAt(lambda states: jnp.tanh(states[..., ::-1]), (1,), at)
    found = np.asarray(run(config, base, None, prompts, KEY, GREEDY, edit).tokens)
    np.testing.assert_array_equal(found, uncached_greedy(config, base, prompts, edit=edit))
    changed = (found != greedy).any(1)
    with_image = np.asarray(prompts.image_mask.any(1))
    assert changed[with_image].any()
    assert changed[~with_image].any() == (at != "image")


def test_an_edit_that_changes_nothing(config, base, prompts, greedy):
    edit = EditAt(lambda states: states, (1, 2), "all")
    np.testing.assert_array_equal(run(config, base, None, prompts, KEY, GREEDY, edit).tokens, greedy)


def test_no_row_depends_on_its_padding_or_its_neighbours(config, base, prompts, greedy):
    wider = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (7, 0))), dataclasses.replace(prompts, images=None))
    # What stands under a mask must not matter either.
    wider = wider.replace(images=prompts.images, tokens=jnp.where(wider.attention_mask, wider.tokens, 17))
    np.testing.assert_array_equal(run(config, base, None, wider, KEY, GREEDY).tokens, greedy)
    shuffled = jax.tree.map(lambda leaf: leaf[::-1], prompts)
    np.testing.assert_array_equal(run(config, base, None, shuffled, KEY, GREEDY).tokens, greedy[::-1])


def test_several_answers_to_a_prompt_that_is_read_once(config, base, prompts):
    """Draws, log-probabilities and ends are those of a batch that holds the prompt several times."""
    config = dataclasses.replace(config, eos_token_id=6)
    repeated = jax.tree.map(lambda leaf: jnp.repeat(leaf, 3, 0), prompts)
    expected = run(config, base, None, repeated, KEY, Sampling(max_new_tokens=NEW))
    once = jax.jit(functools.partial(generate, copies=3), static_argnums=(0, 5, 6))
    found = once(config, base, None, prompts, KEY, Sampling(max_new_tokens=NEW))
    np.testing.assert_array_equal(found.tokens, expected.tokens)
    jax.tree.map(lambda one, other: np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5), found, expected)
    assert len({answer.tobytes() for answer in np.asarray(found.tokens[:3])}) == 3
    assert len(set(np.asarray(found.lengths).tolist())) > 1


def test_the_image_matters(config, base, prompts, greedy):
    other = run(config, base, None, prompts.replace(images=255 - prompts.images), KEY, GREEDY).tokens
    with_image = np.asarray(prompts.image_mask.any(1))
    changed = (np.asarray(other) != greedy).any(1)
    assert changed[with_image].any()
    assert not changed[~with_image].any()


def test_answers_stop_at_the_end_token(config, base, prompts, greedy):
    end = int(greedy[0, 3])
    out = run(dataclasses.replace(config, eos_token_id=end), base, None, prompts, KEY, GREEDY)
    ended = (greedy == end).any(1)
    lengths = np.where(ended, np.argmax(greedy == end, 1) + 1, NEW)
    mask = np.arange(NEW) < lengths[:, None]
    assert len(set(lengths)) > 1
    np.testing.assert_array_equal(out.ended, ended)
    np.testing.assert_array_equal(out.lengths, lengths)
    np.testing.assert_array_equal(out.mask, mask)
    np.testing.assert_array_equal(out.tokens, np.where(mask, greedy, config.pad_token_id))
    assert (np.asarray(out.log_probs)[mask] < 0).all()
    assert not np.asarray(out.log_probs)[~mask].any()


def test_decoding_stops_when_every_row_has_ended(config, base, prompts, greedy, monkeypatch):
    steps = []

    def counted(*arguments):
        jax.debug.callback(lambda: steps.append(1))
        return original(*arguments)

    original = decode.choose
    monkeypatch.setattr(decode, "choose", counted)
    row = jax.tree.map(lambda leaf: leaf[:1], prompts)
    ending = dataclasses.replace(config, eos_token_id=int(greedy[0, 4]))
    out = jax.jit(lambda: generate(ending, base, None, row, KEY, dataclasses.replace(GREEDY, max_new_tokens=99)))()
    jax.effects_barrier()
    assert len(steps) == int(out.lengths[0]) <= 5
    assert out.tokens.shape == (1, 99)


def test_the_placeholder_is_never_generated(config, base, prompts, greedy):
    # The id that the model wants most becomes the placeholder: inside the vocabulary it disappears ...
    wanted = int(np.bincount(greedy.ravel()).argmax())
    inside = dataclasses.replace(config, image_token_id=wanted)
    found = run(inside, base, None, prompts, KEY, GREEDY).tokens
    assert not (found == wanted).any()
    np.testing.assert_array_equal(found, uncached_greedy(inside, base, prompts))
    # ... and a placeholder outside it takes nothing away.
    outside = dataclasses.replace(config, image_token_id=64)
    np.testing.assert_array_equal(
        run(outside, base, None, prompts, KEY, GREEDY).tokens, uncached_greedy(outside, base, prompts)
    )


def test_log_probs_are_those_of_the_distribution_drawn_from(config, base, prompts):
    sampling = Sampling(max_new_tokens=NEW, temperature=0.7, top_p=0.9, top_k=20)
    out = run(dataclasses.replace(config, eos_token_id=7), base, None, prompts, KEY, sampling)
    scores = np.asarray(all_logits(base, extended(prompts, out.tokens, out.mask)))[:, -NEW - 1 : -1]
    for row, slot in zip(*np.nonzero(np.asarray(out.mask)), strict=True):
        token = int(out.tokens[row, slot])
        expected = distribution(scores[row, slot], sampling, config.image_token_id)[token]
        np.testing.assert_allclose(out.log_probs[row, slot], np.log(expected), atol=1e-4)


def test_the_key_decides(config, base, prompts):
    sampling = dataclasses.replace(GREEDY, temperature=1.0)
    one, again = (run(config, base, None, prompts, KEY, sampling).tokens for _ in range(2))
    np.testing.assert_array_equal(one, again)
    assert (one != run(config, base, None, prompts, jax.random.key(6), sampling).tokens).any()
    # Every step and every row draws anew: from equal chances come different tokens.
    even = {**base, "language": {**base["language"], "head": jax.tree.map(jnp.zeros_like, base["language"]["head"])}}
    drawn = np.asarray(run(config, even, None, prompts, KEY, sampling).tokens)
    assert all(len(set(row)) > 4 for row in (*drawn.tolist(), *drawn.T.tolist()))
    # Two rows with one prompt draw apart.
    twins = jax.tree.map(lambda leaf: jnp.repeat(leaf[:1], 8, 0), prompts)
    assert len({tuple(row) for row in run(config, base, None, twins, KEY, sampling).tokens.tolist()}) > 1


def test_eight_devices_draw_the_tokens_of_one(config, base, prompts):
    sampling = dataclasses.replace(GREEDY, temperature=1.0)
    alone = run(config, base, None, prompts, KEY, sampling)
    mesh = make_mesh(data=8)
    with jax.set_mesh(mesh):
        spread = run(config, place(mesh, base), None, place_batch(mesh, prompts), KEY, sampling)
    np.testing.assert_array_equal(alone.tokens, spread.tokens)
    np.testing.assert_allclose(alone.log_probs, spread.log_probs, atol=1e-5)


class Numbers:
    """Writes ids down as numbers."""

    def batch_decode(self, rows, skip_special_tokens):
        assert skip_special_tokens
        return [f" {' '.join(map(str, row))} " for row in rows.tolist()]


def test_answers_come_in_the_order_of_the_records(config, base, prompts, greedy):
    order = np.array([5, 2, 7, 0, 1, 3, 6, 4])
    batches = []
    for rows in (order[:3], order[3:6], order[6:]):
        index = np.concatenate([rows, np.repeat(rows[-1:], 3 - len(rows))]).astype(np.int32)
        # A row that only fills up holds another prompt here, so that its answer would be seen.
        held = np.concatenate([rows, np.repeat(rows[:1], 3 - len(rows))])
        part = jax.tree.map(lambda leaf, held=held: np.asarray(leaf)[held], prompts)
        batches.append(EvalBatch(batch=part, row_mask=np.arange(3) < len(rows), index=index))
    told = []
    lora = init_lora(config, jax.random.key(0))
    model = Model(config, base, Numbers(), TEMPLATES[config.template], make_mesh())
    texts = answer(model, lora, batches, GREEDY, progress=told.append)
    assert texts == [" ".join(map(str, row)) for row in greedy.tolist()]
    assert told == [3, 6, 8]


@pytest.fixture(scope="module")
def broken(base, prompts, greedy):
    """A base that knows no numbers for a token which the first prompt alone has, and nobody says."""
    real = np.where(prompts.attention_mask & ~prompts.image_mask, prompts.tokens, -1)
    (token, *_) = sorted(set(real[0].tolist()) - set(real[1:].ravel().tolist()) - set(greedy.ravel().tolist()))
    assert token >= 0
    table = base["language"]["embedding"].at[token].set(jnp.nan)
    return {**base, "language": {**base["language"], "embedding": table}}


def test_logits_that_are_not_finite_are_told(config, base, broken, prompts, greedy):
    whole = run(config, base, None, prompts, KEY, GREEDY)
    assert whole.finite.all()
    out = run(config, broken, None, prompts, KEY, GREEDY)
    np.testing.assert_array_equal(out.finite, np.arange(len(greedy)) > 0)
    np.testing.assert_array_equal(out.tokens[1:], greedy[1:])


def test_answers_of_broken_weights_are_an_error(config, broken, prompts):
    model = Model(config, broken, Numbers(), TEMPLATES[config.template], make_mesh())
    lora = init_lora(config, jax.random.key(0))
    told = np.arange(8) != 0
    for row_mask, found in ((np.ones(8, bool), "1 of 8 answers, first to question 5"), (told, None)):
        batch = EvalBatch(jax.tree.map(np.asarray, prompts), row_mask, np.arange(4, 12, dtype=np.int32))
        if found:
            with pytest.raises(InputError, match=f"logits that are not finite in {found}"):
                answer(model, lora, [batch], GREEDY)
        else:
            # What only fills up a batch is nobody's answer.
            assert len(answer(model, lora, [batch], GREEDY)) == 7


def test_a_tpu_reads_stacks_and_says_the_same(config, base, prompts, greedy, monkeypatch):
    """Elsewhere every layer's weights and cache are apart."""
    monkeypatch.setattr(decode, "platform", lambda: "tpu")
    lora = init_lora(config, jax.random.key(0))
    stacked = generate(config, base, lora, prompts, KEY, GREEDY)
    np.testing.assert_array_equal(stacked.tokens, greedy)
