"""A model whose block outputs are changed while it runs, from a script."""

import jax.numpy as jnp
import numpy as np
import pytest

from vlm_jax.errors import InputError

ASKED = {"questions": "Describe the picture."}
FEW = {"max_new_tokens": 12}


def nothing(states):
    return jnp.zeros_like(states)


@pytest.fixture(scope="module")
def said(tiny, pictures):
    return tiny.answer(pictures, **ASKED, **FEW)


def test_the_same_states_give_the_same_answers(tiny, pictures, said):
    same = tiny.edit(lambda states: states, layers=(1, 4))
    assert same.answer(pictures, **ASKED, **FEW) == said
    answers = {"answers": said}
    for one, other in zip(
        same.log_probs(pictures, **ASKED, **answers), tiny.log_probs(pictures, **ASKED, **answers), strict=True
    ):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_without_the_images_states_the_model_sees_little(tiny, pictures, said):
    """The first block reads the image all the same."""
    dim = tiny.edit(nothing, layers=range(1, 5), at="image")
    guessed = dim.answer(pictures, **ASKED, **FEW)
    assert all(one != other for one, other in zip(said, guessed, strict=True))
    clear, unclear = (model.log_probs(pictures, **ASKED, answers=said) for model in (tiny, dim))
    assert all(one.sum() > other.sum() + 1 for one, other in zip(clear, unclear, strict=True))
    # The model that was edited is another one.
    assert tiny.answer(pictures, **ASKED, **FEW) == said


@pytest.mark.parametrize("at", ["image", "text", "all"])
def test_states_change_where_they_are_told_to(at, tiny, pictures):
    (plain,) = tiny.states(pictures[0], **ASKED, answers="There", layers=(0, 1, 2))
    edited = tiny.edit(nothing, layers=[1], at=at)
    (changed,) = edited.states(pictures[0], **ASKED, answers="There", layers=(0, 1, 2))
    where = {"image": plain.image, "text": ~plain.image, "all": np.ones_like(plain.image)}[at]
    before, after = plain.values["residual"], changed.values["residual"]
    np.testing.assert_allclose(after[0], before[0], atol=1e-5)
    assert not after[1][where].any()
    np.testing.assert_allclose(after[1][~where], before[1][~where], atol=1e-5)
    assert np.abs(after[2] - before[2]).max() > 0.1


def test_edits_that_cannot_be(tiny, pictures):
    edited = tiny.edit(nothing, layers=(1,))
    with pytest.raises(InputError, match="edited already"):
        edited.edit(nothing, layers=(2,))
    for layers in ((0,), (5,), (), (1, -1)):
        with pytest.raises(InputError, match="expected a list of some of 1 to 4"):
            tiny.edit(nothing, layers=layers)
    narrow = tiny.edit(lambda states: states[..., :1], layers=(1,))
    with pytest.raises(InputError, match=r"an edit that makes \(1, 73, 1\) of \(1, 73, 128\)"):
        narrow.answer(pictures[0], **ASKED, **FEW)
