"""The forward pass against itself: padding, cache, capture and remat change nothing, edits only what they should."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.models.adapters import init_lora, init_reward_head, init_value_head, merged_kernel, verdict_head
from vlm_jax.models.llama import empty_cache
from vlm_jax.models.llava import Capture, Edit, encode_images, forward, logits, scores, splice

run = jax.jit(forward, static_argnums=0, static_argnames="capture")


def test_splice_equals_a_loop():
    rng = np.random.default_rng(0)
    text, image = rng.standard_normal((3, 9, 5)), rng.standard_normal((3, 4, 5))
    mask = np.zeros((3, 9), bool)
    mask[0, 2:6] = True
    mask[1, [0, 3, 4, 8]] = True
    expected = text.copy()
    for row in range(3):
        place = 0
        for position in range(9):
            if mask[row, position]:
                expected[row, position] = image[row, place]
                place += 1
    found = splice(jnp.asarray(text, jnp.float32), jnp.asarray(image, jnp.float32), jnp.asarray(mask))
    np.testing.assert_array_equal(np.asarray(found), expected.astype(np.float32))


def test_image_embeddings_reach_only_their_rows(tiny, base, batch):
    plain = run(tiny, base, None, batch).hidden
    other = run(tiny, base, None, batch.replace(images=255 - batch.images)).hidden
    np.testing.assert_array_equal(plain[2:], other[2:])
    assert np.abs(plain[0] - other[0]).max() > 1e-2
    assert encode_images(tiny, base, batch.images).shape == (4, tiny.vision.patches, tiny.language.width)


def test_image_id_outside_the_table_changes_nothing(tiny, base, batch):
    outside = batch.replace(tokens=jnp.where(batch.image_mask, 999, batch.tokens))
    one, other = run(tiny, base, None, batch).hidden, run(tiny, base, None, outside).hidden
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("row", [1, 3])
def test_left_padding_changes_no_real_position(tiny, base, adapter, batch, row):
    padded = run(tiny, base, adapter, batch).hidden[row]
    pads = int((~batch.attention_mask[row]).sum())
    images = batch.images[row : row + 1]
    alone = jax.tree.map(lambda leaf: leaf[row : row + 1, pads:], batch.replace(images=None)).replace(images=images)
    np.testing.assert_allclose(padded[pads:], run(tiny, base, adapter, alone).hidden[0], atol=1e-5)


def test_right_padding_changes_no_real_position(tiny, base, batch):
    longer = jax.tree.map(lambda leaf: jnp.pad(leaf, ((0, 0), (0, 3))), batch.replace(images=None))
    padded = run(tiny, base, None, longer.replace(images=batch.images)).hidden[:, :-3]
    real = np.asarray(batch.attention_mask)
    np.testing.assert_allclose(padded[real], run(tiny, base, None, batch).hidden[real], atol=1e-5)


@pytest.mark.parametrize("prompt", [11, 13])
def test_cached_decoding_equals_one_pass(tiny, base, adapter, batch, prompt):
    whole = run(tiny, base, adapter, batch).hidden
    cache = empty_cache(tiny.language, 4, 16, jnp.dtype("float32"))
    first = jax.tree.map(lambda leaf: leaf[:, :prompt], batch.replace(images=None)).replace(images=batch.images)
    out = run(tiny, base, adapter, first, cache=cache)
    parts = [out.hidden]
    for position in range(prompt, 14):
        step = jax.tree.map(lambda leaf: leaf[:, position : position + 1], batch.replace(images=None))  # noqa: B023
        out = run(tiny, base, adapter, step, cache=out.cache)
        parts.append(out.hidden)
    assert int(out.cache.used) == 14
    real = np.asarray(batch.attention_mask)
    np.testing.assert_allclose(jnp.concatenate(parts, 1)[real], whole[real], atol=1e-5)


def test_fresh_adapter_is_the_base_exactly(tiny, base, batch):
    fresh = init_lora(tiny, jax.random.key(0))
    np.testing.assert_array_equal(run(tiny, base, None, batch).hidden, run(tiny, base, fresh, batch).hidden)


def test_merged_adapter_equals_the_adapter(tiny, base, adapter, batch):
    apart = run(tiny, base, adapter, batch).hidden
    blocks = dict(base["language"]["blocks"])
    for part, pairs in adapter.items():
        blocks[part] = {
            name: {"kernel": merged_kernel(tiny, blocks[part][name]["kernel"], pair["a"], pair["b"])}
            for name, pair in pairs.items()
        }
    whole = {**base, "language": {**base["language"], "blocks": blocks}}
    merged = run(tiny, whole, None, batch).hidden
    assert np.abs(apart - run(tiny, base, None, batch).hidden).max() > 1e-2
    real = np.asarray(batch.attention_mask)
    np.testing.assert_allclose(merged[real], apart[real], atol=1e-4)


def test_captured_states_add_up(tiny, base, batch):
    capture = Capture((3, 0, 1), ("residual", "attention", "mlp"))
    out = run(tiny, base, None, batch, capture=capture)
    np.testing.assert_allclose(out.hidden, run(tiny, base, None, batch).hidden, atol=1e-5)
    states = out.states
    assert {site: state.shape for site, state in states.items()} == dict.fromkeys(capture.sites, (3, 4, 14, 48))
    np.testing.assert_allclose(
        states["residual"][2], states["residual"][1] + states["attention"][2] + states["mlp"][2], atol=1e-5
    )
    assert not states["attention"][1].any()


@pytest.mark.parametrize(
    "asked",
    [{"capture": Capture((5,))}, {"capture": Capture((-1,))}, {"edit": Edit((0,), jnp.ones((3, 12), bool), abs)}],
)
def test_layers_that_are_not_there_are_refused(tiny, base, batch, asked):
    with pytest.raises(ValueError, match=r"layers \[\S+\] cannot be (captured|edited): they run from [01] to "):
        forward(tiny, base, None, batch, **asked)


def test_identity_edit_changes_nothing(tiny, base, batch):
    edit = Edit((1, 2, 3), jnp.ones((4, 14), bool), lambda x: x)
    edited = jax.jit(partial(forward, tiny, edit=edit))(base, None, batch)
    np.testing.assert_allclose(edited.hidden, run(tiny, base, None, batch).hidden, atol=1e-6)


def test_edit_touches_only_masked_positions_of_its_layers(tiny, base, batch):
    mask = jnp.zeros((4, 14), bool).at[0, 9].set(True).at[2, 13].set(True)
    capture = Capture((1, 2, 3))
    plain = run(tiny, base, None, batch, capture=capture).states["residual"]
    edit = Edit((2,), mask, lambda x: x + 1)
    changed = jax.jit(partial(forward, tiny, edit=edit, capture=capture))(base, None, batch).states["residual"]
    np.testing.assert_array_equal(plain[0], changed[0])
    np.testing.assert_allclose(changed[1] - plain[1], jnp.broadcast_to(mask[..., None], plain[1].shape), atol=1e-6)
    # After the edited layer only positions that can read an edited one may differ.
    reached = np.zeros((4, 14), bool)
    reached[0, 9:] = reached[2, 13:] = True
    moved = np.asarray(np.abs(changed[2] - plain[2]).max(-1) > 0)
    np.testing.assert_array_equal(moved, reached)


def test_remat_changes_neither_loss_nor_gradient(tiny, base, adapter, text_batch):
    def loss(weights, config):
        trained = {**base, "language": {**base["language"], "embedding": weights["embedding"]}}
        hidden = forward(config, trained, weights["adapter"], text_batch).hidden
        log_probs = jax.nn.log_softmax(logits(config, trained, hidden))
        chosen = jnp.take_along_axis(log_probs[:, :-1], text_batch.tokens[:, 1:, None], -1)[..., 0]
        return -jnp.where(text_batch.loss_mask[:, 1:], chosen, 0).sum()

    grad = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    # The embedding lies below the first block and the adapters in every block.
    weights = {"embedding": base["language"]["embedding"], "adapter": adapter}
    assert "remat" not in str(jax.make_jaxpr(grad, static_argnums=1)(weights, tiny))
    kept, kept_grad = grad(weights, tiny)
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(kept_grad))
    for remat in ("dots", "block"):
        config = dataclasses.replace(tiny, remat=remat)
        assert "remat" in str(jax.make_jaxpr(grad, static_argnums=1)(weights, config))
        again, again_grad = grad(weights, config)
        np.testing.assert_allclose(kept, again, rtol=1e-6)
        for one, other in zip(jax.tree.leaves(kept_grad), jax.tree.leaves(again_grad), strict=True):
            assert np.isfinite(one).all()
            np.testing.assert_allclose(one, other, atol=1e-6 * largest)


def test_heads_start_as_documented(tiny, base, batch):
    hidden = run(tiny, base, None, batch).hidden
    assert not scores(init_value_head(tiny), hidden).any()
    head = init_reward_head(tiny, jax.random.key(0))
    bound = 1 / np.sqrt(tiny.language.width)
    assert 0.5 * bound < np.abs(head["kernel"]).max() <= bound
    np.testing.assert_allclose(scores(head, hidden), (hidden * head["kernel"]).sum(-1), atol=1e-5)


def test_a_verdict_head_scores_what_the_model_would_rather_say(tiny, base, batch):
    hidden = run(tiny, base, None, batch).hidden
    head = verdict_head(base, 7, 9)
    said = logits(tiny, base, hidden)
    leaning, score = said[..., 7] - said[..., 9], scores(head, hidden)
    np.testing.assert_allclose(score / score.std(), leaning / leaning.std(), atol=1e-5)
    norms = [jnp.linalg.norm(init_reward_head(tiny, jax.random.key(i))["kernel"]) for i in range(30)]
    np.testing.assert_allclose(jnp.linalg.norm(head["kernel"]), np.mean(norms), rtol=0.02)


def test_bfloat16_runs_in_bfloat16(tiny, base, adapter, batch):
    half = dataclasses.replace(tiny, dtype="bfloat16")
    out = run(half, base, adapter, batch, cache=empty_cache(tiny.language, 4, 14, jnp.dtype("bfloat16")))
    assert out.hidden.dtype == out.cache.keys.dtype == jnp.bfloat16
    assert logits(half, base, out.hidden).dtype == jnp.float32
    real = np.asarray(batch.attention_mask)
    full = run(tiny, base, adapter, batch).hidden
    np.testing.assert_allclose(out.hidden[real].astype(np.float32), full[real], atol=0.3)
