"""Answers, likelihoods and states against the functions that they are made of, written out without batches."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import ExifTags, Image

import vlm_jax
from vlm_jax.arrays import Batch
from vlm_jax.config import ImageSteps
from vlm_jax.data.assemble import viewer
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.encoding import encode_conversation
from vlm_jax.data.sources import Prompt
from vlm_jax.generate import answers as generating
from vlm_jax.generate.sampling import Sampling
from vlm_jax.models.llava import Capture, forward, logits
from vlm_jax.scripting.rows import aligned, prompts

QUESTIONS = ["Is there a boat in the image?", "Is there a heart in the image?"]
SHORT = {"max_new_tokens": 6}


@pytest.fixture(scope="module")
def said(tiny, pictures):
    return tiny.answer(pictures, QUESTIONS, **SHORT)


def unpadded(tiny, picture, question, answer) -> Batch:
    """One row by itself."""
    marked = question if picture is None else f"{IMAGE}\n{question}"
    turns = (Turn("human", marked), Turn("gpt", answer))
    model = tiny.model
    text = encode_conversation(model.tokenizer, model.template, turns, model.config, 512)
    pixels = np.zeros((48, 48, 3), np.uint8) if picture is None else picture
    row = (text.tokens, np.ones(len(text), bool), text.image_mask, text.loss_mask, pixels)
    return Batch(*(jnp.asarray(values)[None] for values in row))


def test_the_tiny_model_sees(tiny, pictures, said):
    assert said == ["No.", "No."]
    assert tiny.answer(pictures[::-1], QUESTIONS, **SHORT) == ["Yes.", "Yes."]


def test_an_image_may_come_in_any_form(tiny, pictures, said, tmp_path):
    one, other = (Image.fromarray(picture) for picture in pictures)
    one.save(tmp_path / "one.png")
    for images in (
        [tmp_path / "one.png", other],
        (str(tmp_path / "one.png"), pictures[1]),
        [(tmp_path / "one.png").read_bytes(), other],
        np.stack(pictures),
    ):
        assert tiny.answer(images, QUESTIONS, **SHORT) == said
    grey = pictures[0].mean(-1).astype(np.uint8)
    same = np.repeat(grey[..., None], 3, -1)
    assert tiny.answer([grey, same], QUESTIONS[0], **SHORT) == [tiny.answer(same, QUESTIONS[0], **SHORT)[0]] * 2


def test_a_photo_is_turned_upright_once(tiny, pictures, tmp_path):
    """Whichever way it comes in: a camera writes it lying, and says so."""
    path, told = tmp_path / "lying.png", Image.Exif()
    told[ExifTags.Base.Orientation] = 6
    Image.fromarray(pictures[1]).transpose(Image.Transpose.ROTATE_90).save(path, exif=told)
    images = [path, str(path), path.read_bytes(), Image.open(path), pictures[1]]
    see = viewer(tiny.model.config)
    squares = [see(record) for record in prompts(aligned(images=images, questions="What is it?"))]
    np.testing.assert_array_equal(squares, [squares[-1]] * len(images))


@pytest.mark.parametrize("steps", [None, ImageSteps(False, 48, 3, (48, 48))], ids=["llava", "transformers"])
def test_a_picture_with_holes_is_seen_as_in_a_file_of_rows(steps, tiny, pictures, tmp_path):
    """Whose RGB is made of it depends on whom the model is read like."""
    path, holes = tmp_path / "holes.png", np.zeros((48, 48, 1), np.uint8)
    holes[:20] = 255
    Image.fromarray(np.concatenate([pictures[1], holes], -1)).save(path)
    config = dataclasses.replace(tiny.model.config, as_transformers=steps)
    columns = aligned(images=[path, path.read_bytes(), Image.open(path)], questions="What is it?")
    squares = [viewer(config)(record) for record in prompts(columns, steps is not None)]
    turns = (Turn("human", f"{IMAGE}\nWhat is it?"),)
    np.testing.assert_array_equal(squares, [viewer(config)(Prompt(id="1", image=path, turns=turns))] * 3)


def test_one_of_a_kind_counts_for_all_rows(tiny, pictures, said):
    assert tiny.answer(pictures[0], QUESTIONS, **SHORT)[0] == said[0]
    assert tiny.answer(pictures, QUESTIONS[1], **SHORT)[1] == said[1]
    assert tiny.answer(None, QUESTIONS, **SHORT) == tiny.answer([None, None], QUESTIONS, **SHORT)
    assert len(tiny.log_probs(None, QUESTIONS[0], ["Yes.", "No."])) == 2


def test_nothing_asked(tiny):
    assert tiny.answer([], [], **SHORT) == []
    assert tiny.log_probs([], [], []) == []
    assert tiny.states(None, [], layers=(1,)) == []


def test_answers_do_not_depend_on_the_batch(tiny, pictures, said):
    assert tiny.answer(pictures * 2, QUESTIONS * 2, **SHORT, batch_size=2) == said * 2


def test_a_second_call_compiles_nothing(tiny, pictures, said):
    compiled = generating._compiled(tiny.model.config, Sampling(max_new_tokens=6, temperature=0.0), None, 1)
    before = compiled._cache_size()
    tiny.answer(pictures[::-1], QUESTIONS, **SHORT)
    assert compiled._cache_size() == before > 0


def test_draws_follow_the_seed(tiny, pictures):
    hot = {"max_new_tokens": 6, "temperature": 3.0}
    first, again, other = (tiny.answer(pictures, "Describe the picture.", **hot, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


ROWS = [(QUESTIONS[0], "No, there is no boat."), (QUESTIONS[1], "Yes.")]


@functools.partial(jax.jit, static_argnums=0)
def all_logits(config, base, batch):
    return logits(config, base, forward(config, base, None, batch).hidden)


def test_log_probs_are_a_float64_log_softmax(tiny, pictures):
    questions, answers = zip(*ROWS, ("Describe it.", ""), strict=True)
    pictures = [*pictures, None]
    found = tiny.log_probs(pictures, questions, answers)
    config, base = tiny.model.config, tiny.model.base
    rows = list(zip(pictures, questions, answers, found, tiny.tokens(answers), strict=True))
    for picture, question, answer, log_probs, pieces in rows[::2]:
        batch = unpadded(tiny, picture, question, answer)
        scores = np.asarray(all_logits(config, base, batch), np.float64)[0]
        shifted = scores - scores.max(-1, keepdims=True)
        table = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        at = np.flatnonzero(batch.loss_mask[0])
        expected = table[at - 1, np.asarray(batch.tokens)[0, at]]
        assert log_probs.dtype == np.float32
        assert len(pieces) == len(log_probs) == len(at)
        assert pieces[-1] == "</s>"
        np.testing.assert_allclose(log_probs, expected, atol=2e-5)


def test_states_are_those_of_one_row_by_itself(tiny, pictures):
    questions, answers = zip(*ROWS, strict=True)
    capture = Capture((0, 4, 2), ("residual", "mlp"))
    found = tiny.states(pictures, questions, answers, layers=[0, 4, 2], sites=["residual", "mlp"])
    rows = list(zip(pictures, questions, answers, found, strict=True))
    for picture, question, answer, states in rows[1:]:
        batch = unpadded(tiny, picture, question, answer)
        expected = forward(tiny.model.config, tiny.model.base, None, batch, capture=capture).states
        assert states.layers == capture.layers
        assert states.values.keys() == expected.keys()
        for site, values in states.values.items():
            assert values.dtype == np.float32
            np.testing.assert_allclose(values, expected[site][:, 0], atol=1e-4)
        np.testing.assert_array_equal(states.image, batch.image_mask[0])
        np.testing.assert_array_equal(states.answer, batch.loss_mask[0])
        assert [token == IMAGE for token in states.tokens] == states.image.tolist()
        spelled = np.array(states.tokens)[states.answer].tolist()
        assert spelled == tiny.tokens(answer)[0]


def test_states_of_a_question_end_where_the_answer_begins(tiny, pictures):
    (states,) = tiny.states(pictures[0], QUESTIONS[0], layers=(1,))
    assert "".join(states.tokens[-2:]) == "▁ASSISTANT:"
    assert states.image.sum() == 9
    assert not states.answer.any()
    assert states.values["residual"].shape == (1, len(states.tokens), 128)


def test_the_arithmetic_may_be_chosen(tiny, pictures):
    questions, answers = zip(*ROWS, strict=True)
    coarse = vlm_jax.load("tiny", dtype="bfloat16")
    assert coarse.model.config == dataclasses.replace(tiny.model.config, dtype="bfloat16")
    fine, rounded = (model.log_probs(pictures, questions, answers)[0] for model in (tiny, coarse))
    assert rounded.dtype == np.float32
    # Eight bits of mantissa; values up to 10.
    assert 0 < np.abs(fine - rounded).max() < 0.3


def test_a_mesh_of_several_devices_gives_the_same_answers(pictures, said):
    for mesh in ({"data": 2}, vlm_jax.MeshOptions(data=2)):
        spread = vlm_jax.load("tiny", mesh=mesh)
        assert spread.model.mesh.shape["data"] == 2
    assert spread.answer(pictures, QUESTIONS, **SHORT) == said
    assert len(jax.tree.leaves(spread.model.base)[0].sharding.device_set) == 2
    # One row fills up to one a device.
    assert spread.answer(pictures[0], QUESTIONS[0], **SHORT) == said[:1]
