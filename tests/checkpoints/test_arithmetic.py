"""The type that a checkpoint is computed in: chosen at opening, and taken by its kernels once."""

import gc
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_llava import CONFIG, assert_same_tree, make_batch, random_base
from small_tokenizer import write_llama_tokenizer

from vlm_jax import recipes
from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.hf_llava import save_llava
from vlm_jax.checkpoints.opening import TINY, map_base, open_model
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.commands import sft
from vlm_jax.commands.training import open_for_training
from vlm_jax.errors import InputError
from vlm_jax.models.llava import forward, logits
from vlm_jax.parallel.memory import bytes_of
from vlm_jax.runs import loop


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """One model in three types, its config asking for bfloat16."""
    place = tmp_path_factory.mktemp("types")
    words = write_llama_tokenizer(place / "words")
    for dtype in ("float32", "bfloat16", "float16"):
        save_llava(place / dtype, replace(CONFIG, dtype="bfloat16"), random_base(CONFIG), words, dtype)
    convert(open_source(place / "float16"), place / "int8", words, scheme="int8")
    return place


def types(base):
    kernels, others = set(), set()
    for path, leaf in jax.tree_util.tree_leaves_with_path(base):
        (kernels if getattr(path[-1], "key", "") == "kernel" else others).add(str(leaf.dtype))
    return kernels, others


@pytest.mark.parametrize(
    ("stored", "dtype", "masters", "kernels"),
    [
        ("float32", None, True, "float32"),
        ("float32", None, False, "bfloat16"),
        ("float32", "float32", False, "float32"),
        ("bfloat16", None, True, "bfloat16"),
        ("bfloat16", "float32", True, "float32"),
        ("float16", None, True, "bfloat16"),
        ("float16", None, False, "bfloat16"),
        ("float16", "float32", False, "float32"),
    ],
)
def test_kernels_take_the_arithmetics_type_once(stored, dtype, masters, kernels, folders):
    model = open_model(str(folders / stored), dtype=dtype, masters=masters)
    assert model.config.dtype == (dtype or "bfloat16")
    assert types(model.base) == ({kernels}, {stored})


@pytest.mark.parametrize(("stored", "dtype"), [("float16", None), ("float32", None), ("bfloat16", "float32")])
def test_it_changes_no_number(stored, dtype, folders):
    model = open_model(str(folders / stored), dtype=dtype, masters=False)
    config, batch = model.config, make_batch(model.config)
    run = jax.jit(lambda base: logits(config, base, forward(config, base, None, batch).hidden))
    at_every_use = jax.tree.map(jnp.asarray, jax.tree.map(np.asarray, map_base(folders / stored)[1]))
    assert types(at_every_use) != types(model.base)
    np.testing.assert_array_equal(run(model.base), run(at_every_use))


def test_codes_keep_their_types(folders):
    quantised = open_model(str(folders / "int8"), masters=False).base["language"]["blocks"]["mlp"]["up"]["kernel"]
    assert (quantised.values.dtype, quantised.scale.dtype) == (jnp.int8, jnp.float32)


def test_the_tiny_model_is_as_stored():
    model, stored = open_model("tiny"), map_base(TINY)[1]
    assert_same_tree(jax.tree.map(np.asarray, model.base), jax.tree.map(np.asarray, stored))


def test_values_beyond_the_arithmetic_are_refused(folders, tmp_path):
    """None of bfloat16's are beyond float32, nor of float16's beyond bfloat16; rounding up to infinity is the rest."""
    base = random_base(CONFIG)
    base["language"]["head"]["kernel"][0, 0] = np.finfo(np.float32).max
    save_llava(tmp_path / "x", CONFIG, base, folders / "words")
    assert open_model(str(tmp_path / "x")).config.dtype == "float32"
    with pytest.raises(InputError, match=r"language/head/kernel beyond bfloat16"):
        open_model(str(tmp_path / "x"), dtype="bfloat16", masters=False)


@pytest.mark.parametrize(("trainable", "kernels"), [("lora", "bfloat16"), ("full", "float32")])
def test_weights_that_are_not_trained_are_cast_once_in_training_too(trainable, kernels, folders, tmp_path, monkeypatch):
    opened = []

    def stop(options, adapter=None, masters=False):
        opened.append(open_for_training(options, adapter, masters))
        raise InputError("enough", "no more")

    monkeypatch.setattr(sft, "open_for_training", stop)
    (tmp_path / "rows.json").write_text(
        '[{"id": 1, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]'
    )
    recipe = str(Path(recipes.__file__).parent / f"scenes-tiny/sft-{trainable}.toml")
    options = sft.Options(
        checkpoint=str(folders / "float32"),
        out=tmp_path / "run",
        data=tmp_path / "rows.json",
        images=tmp_path,
        trainable=trainable,
        recipe=recipe,
    )
    with pytest.raises(InputError, match="enough"):
        sft.run(options)
    assert types(opened[0].base) == ({kernels}, {"float32"})


@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_full_training_holds_what_it_trains_once(stored, folders, tmp_path, monkeypatch):
    """Values and two moments, in float32; the weights that they were made from are gone when the first step comes."""

    def held():
        gc.collect()
        return sum(array.nbytes for array in jax.live_arrays())

    def stop(run, pace, mesh, state, *rest):
        seen.append((held() - before, bytes_of(state)))
        raise InputError("enough", "no more")

    monkeypatch.setattr(loop, "train", stop)
    (tmp_path / "rows.json").write_text(
        '[{"id": 1, "conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}]'
    )
    recipe = str(Path(recipes.__file__).parent / "scenes-tiny/sft-full.toml")
    places = {"out": tmp_path / "run", "data": tmp_path / "rows.json", "images": tmp_path}
    options = sft.Options(checkpoint=str(folders / stored), trainable="full", recipe=recipe, batch_size=1, **places)
    before, seen = held(), []
    with pytest.raises(InputError, match="enough"):
        sft.run(options)
    [(found, state)] = seen
    base = open_model(str(folders / stored), masters=True).base
    # No row has an image: the projector stays frozen.
    frozen = bytes_of({part: base[part] for part in ("vision", "projector")})
    assert state + frozen <= found < state + frozen + bytes_of(base["language"]) / 2
