"""What is trained moves, or the run says which part does not."""

import jax.numpy as jnp
import pytest

from vlm_jax.errors import DivergedError
from vlm_jax.runs.unmoved import UnmovedLeaves, watch
from vlm_jax.train.optim import Optim, start

PARAMS = {"lora": {"a": jnp.ones(3), "b": jnp.zeros(2)}}


def later(updates, **changed):
    state = start(Optim(1.0), PARAMS)
    return state.replace(params={"lora": {**PARAMS["lora"], **changed}}, step=jnp.int32(updates))


def test_nothing_is_left_to_watch_once_all_has_moved():
    still = UnmovedLeaves(later(0))
    assert still.after(later(1, b=jnp.ones(2)), final=False) is still
    assert still.after(later(2, a=jnp.zeros(3), b=jnp.zeros(2)), final=False) is None


def test_a_leaf_that_stands_still_is_named_where_updates_were_enough():
    still = UnmovedLeaves(later(0))
    moved = {"b": jnp.ones(2)}
    assert still.after(later(2, **moved), final=True) is still
    assert still.after(later(3, **moved), final=False) is still
    with pytest.raises(DivergedError, match="1 trained leaves did not move in 3 updates: lora/a"):
        still.after(later(3, **moved), final=True)


def test_a_projection_that_an_adapter_leaves_out_is_not_watched():
    nothing = {"lora": {"q": {"a": jnp.ones(3), "b": jnp.zeros(2)}, "k": {"a": jnp.zeros(3), "b": jnp.zeros(2)}}}
    begun = start(Optim(1.0), nothing)
    moved = {"lora": {**nothing["lora"], "q": {"a": jnp.zeros(3), "b": jnp.ones(2)}}}
    assert UnmovedLeaves(begun).after(begun.replace(params=moved, step=jnp.int32(3)), final=True) is None


def test_a_resumed_run_is_watched_until_it_has_had_its_updates():
    unmoved = watch(later(2))
    assert unmoved.after(later(4), final=True) is unmoved
    with pytest.raises(DivergedError, match="2 trained leaves did not move in 3 updates"):
        unmoved.after(later(5), final=True)
    assert watch(later(3)) is None
