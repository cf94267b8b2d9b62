"""Calls that cannot be answered: one error that says what was found and what is wanted."""

from inspect import unwrap

import numpy as np
import pytest
from PIL import Image

import vlm_jax
from vlm_jax.errors import InputError
from vlm_jax.scripting.model import Vlm
from vlm_jax.scripting.rows import prompts, texts

QUESTION = "Is there a boat in the image?"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, p: m.answer(p, [QUESTION] * 3), "found 2 images, 3 questions; expected as many of each"),
        (lambda m, p: m.log_probs(p, QUESTION, ["Yes."]), "found 2 images, 1 answers; expected as many of each"),
        (lambda m, p: m.answer([p[0], p[1].astype(float)], QUESTION), "images, row 2: found an image of float64"),
        (lambda m, p: m.answer(p[0][..., :2], QUESTION), r"an image of uint8 \[48, 48, 2\]; expected uint8 pixels"),
        (lambda m, p: m.answer(p[0][:0], QUESTION), r"an image of uint8 \[0, 48, 3\]"),
        (
            lambda m, p: m.answer("gone.png", QUESTION),
            "^images, row 1: found no such file in gone.png; expected an image file",
        ),
        (lambda m, p: m.answer([None, b"GIF89a"], QUESTION), "^images, row 2: found an image that cannot be decoded"),
        (
            lambda m, p: m.log_probs([p[0], "gone.png"], QUESTION, "No."),
            "^images, row 2: found no such file in gone.png",
        ),
        (lambda m, p: m.states([p[0], b""], QUESTION, layers=(1,)), "^images, row 2: found an image that cannot"),
        (
            lambda m, p: m.answer(None, ["hi", "<image>\nhi"]),
            "^questions, row 2: found <image> in a question without an image",
        ),
        (lambda m, p: m.answer(p, QUESTION + " And?" * 2000), "questions, row 1: found a prompt of"),
        (lambda m, p: m.answer(p, QUESTION, max_length=15), "row 1: found a prompt of .* expected at most 15"),
        (lambda m, p: m.log_probs(p, QUESTION, "No. " * 2000), "row 1: found a prompt and continuation of"),
        (lambda m, p: m.answer(p, QUESTION, top_p=0.0), "top_p"),
        (lambda m, p: m.answer(p, QUESTION, batch_size=0), "found batch_size 0"),
        (
            lambda m, p: m.states(p, QUESTION, layers=(0, 5)),
            r"found layers \(0, 5\); expected a list of some of 0",
        ),
        (lambda m, p: m.states(p, QUESTION, layers=(1,), sites=()), "expected residual, attention, mlp"),
    ],
)
def test_one_clear_error(call, message, tiny, pictures):
    with pytest.raises(InputError, match=message):
        call(tiny, pictures)


def test_kinds_that_are_not_read(tiny):
    """What a script may hand over although the types say no (``unwrap``: without the tests' own checks)."""
    for image in (3, [], Image.Image):
        with pytest.raises(InputError, match="images, row 2: found an image of type"):
            prompts({"images": [None, image], "questions": [QUESTION] * 2})
    with pytest.raises(InputError, match="questions, row 1: found a question of type int; expected a text"):
        prompts({"images": [None], "questions": [3]})
    with pytest.raises(InputError, match=r"facts, row 2: found facts 'A cat\.'; expected a list of sentences"):
        prompts({"images": [None] * 2, "questions": [QUESTION] * 2, "facts": [None, "A cat."]})
    with pytest.raises(InputError, match="answers, row 2: found a NoneType; expected a text"):
        texts("answers", ["Yes.", None])
    with pytest.raises(InputError, match="found no answers"):
        unwrap(Vlm.log_probs)(tiny, None, QUESTION, None)
    with pytest.raises(InputError, match=r"found sites \['head'\]; expected residual, attention, mlp"):
        unwrap(Vlm.states)(tiny, None, QUESTION, layers=(1,), sites=("head",))
    for apply, at in ((3, "all"), (np.tanh, "picture")):
        with pytest.raises(InputError, match="expected a function, at image, text, all"):
            unwrap(Vlm.edit)(tiny, apply, layers=(1,), at=at)


def test_models_that_cannot_be_opened():
    with pytest.raises(InputError, match="found dtype 'float16'; expected float32 or bfloat16"):
        unwrap(vlm_jax.load)("tiny", dtype="float16")
    with pytest.raises(InputError, match="found mesh axes model; expected some of data, fsdp, tensor"):
        vlm_jax.load("tiny", mesh={"model": 2})
    with pytest.raises(InputError, match="found --data 0; expected a number from 1 to 65536"):
        vlm_jax.load("tiny", mesh={"data": 0})
    with pytest.raises(InputError, match="needs 1000 devices"):
        vlm_jax.load("tiny", mesh={"tensor": 1000})
    with pytest.raises(InputError, match=r"gone: found no such folder"):
        vlm_jax.load("gone")
    with pytest.raises(InputError, match=r"gone: found no adapter_config\.json"):
        vlm_jax.load("tiny", adapter="gone")
