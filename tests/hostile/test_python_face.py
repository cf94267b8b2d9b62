"""What a script may hand over: one `InputError` that says what it was, and never an error of some library below."""

from inspect import unwrap

import jax.numpy as jnp
import numpy as np
import pytest

import vlm_jax
from vlm_jax.errors import InputError
from vlm_jax.interpret.edit_at import EditAt
from vlm_jax.scripting.model import Vlm

QUESTION = "Is there a boat in the image?"


@pytest.fixture(scope="module")
def tiny():
    return vlm_jax.load("tiny")


def answer(tiny, **options):
    """Without the tests' own checks of types."""
    return unwrap(Vlm.answer)(tiny, None, QUESTION, **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": [1, 2]}, r"seed \[1, 2\]; expected a whole number"),
        ({"seed": None}, "seed None"),
        ({"seed": 1.5}, "seed 1.5"),
        ({"seed": True}, "seed True"),
        ({"seed": -1}, "seed -1; expected 0 to"),
        ({"seed": 2**64}, "seed 18446744073709551616"),
        ({"seed": np.array([1])}, "seed array"),
        ({"max_new_tokens": "many"}, "max_new_tokens 'many'"),
        ({"max_new_tokens": 10**12}, r"a need for at least .* GB of memory \(keys and values"),
        ({"temperature": "hot"}, "temperature 'hot'; expected a number"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_p": [0.5]}, "top_p"),
        ({"top_k": 0.5}, "top_k 0.5"),
        ({"batch_size": "16"}, "batch_size '16'"),
        ({"batch_size": 2.0}, "batch_size 2.0"),
        ({"max_length": [1]}, r"max_length \[1\]"),
        ({"max_length": 0}, "max_length 0"),
    ],
    ids=str,
)
def test_figures_of_an_answer(options, said, tiny):
    with pytest.raises(InputError, match=said):
        answer(tiny, **options)


@pytest.mark.parametrize("question", ["", " \n\t", "<image>", "<image> and <image>"])
def test_questions_that_ask_nothing(question, tiny):
    picture = np.zeros((8, 8, 3), np.uint8)
    with pytest.raises(InputError, match="questions, row 1: found"):
        tiny.answer(picture, question)


@pytest.mark.parametrize("layers", [[[1]], ["1"], [1.5], [None], 1, None, {1}])
def test_layers_of_other_kinds(layers, tiny):
    with pytest.raises(InputError, match=r"layers .* expected a list of some of 0 to 4"):
        unwrap(Vlm.states)(tiny, None, QUESTION, layers=layers)


def test_sites_of_another_kind(tiny):
    with pytest.raises(InputError, match="sites 5; expected a list of some of residual"):
        unwrap(Vlm.states)(tiny, None, QUESTION, layers=[1], sites=5)


@pytest.mark.parametrize(
    ("apply", "said"),
    [
        (lambda x: None, "an edit that makes NoneType; expected an array of numbers"),
        (lambda x: [1.0], "an edit that makes list"),
        (lambda x: 0.0, "an edit that makes float"),
        (lambda x: np.tanh(x), r"asks for values while it is compiled \(TracerArrayConversionError\)"),
        (lambda x: np.asarray(x), "asks for values while it is compiled"),
        (lambda x: x if x.sum() > 0 else -x, r"asks for values while it is compiled \(TracerBoolConversionError\)"),
        (lambda x: float(x[0, 0, 0]) * x, "asks for values while it is compiled"),
        (lambda x: x > 0, "an edit that makes an array of bool"),
        (lambda x: x + 1j, "an edit that makes an array of complex64"),
        (lambda x: np.array(["a"]), "an edit that makes an array of <U1"),
        (lambda x: np.zeros(3), r"an edit that makes \(3,\) of \(1,"),
        (lambda x: x[..., :1], "expected states of the same shape"),
        (lambda x: jnp.sum(x), r"an edit that makes \(\) of"),
    ],
)
def test_edits_that_make_no_states(apply, said, tiny):
    with pytest.raises(InputError, match=said):
        tiny.edit(apply, layers=(1,)).log_probs(None, QUESTION, "Yes.")


def test_edits_that_raise_on_their_own(tiny):
    """A mistake in the function is shown where it is."""

    def broken(x):
        raise ZeroDivisionError("mine")

    with pytest.raises(ZeroDivisionError, match="mine"):
        tiny.edit(broken, layers=(1,)).log_probs(None, QUESTION, "Yes.")


def test_a_numpy_array_of_the_right_shape_is_an_edit():
    states = jnp.ones((1, 2, 3), jnp.bfloat16)
    made = unwrap(EditAt._changed)(EditAt(lambda x: np.zeros((1, 2, 3)), (1,), "all"), states)
    assert made.dtype == jnp.bfloat16
    assert not made.any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"checkpoint": None}, "checkpoint None"),
        ({"checkpoint": 3}, "checkpoint 3"),
        ({"checkpoint": "a\0b"}, r"a\\x00b"),
        ({"checkpoint": ""}, "config.json"),
        ({"checkpoint": "/dev/null"}, "/dev/null"),
        ({"checkpoint": "\udcff"}, r"\\udcff"),
        ({"checkpoint": "tiny", "adapter": 3}, "adapter 3"),
        ({"checkpoint": "tiny", "mesh": 3}, "mesh 3"),
        ({"checkpoint": "tiny", "mesh": {"data": "2"}}, "data '2'"),
        ({"checkpoint": "tiny", "mesh": {"data": 0}}, "--data 0"),
        ({"checkpoint": "tiny", "preset": "llava-9"}, "llava-9"),
        ({"checkpoint": "tiny", "dtype": "float8"}, "float8"),
    ],
    ids=str,
)
def test_models_that_are_none(arguments, said):
    with pytest.raises(InputError, match=said) as stopped:
        unwrap(vlm_jax.load)(**arguments)
    assert str(stopped.value).isprintable()
