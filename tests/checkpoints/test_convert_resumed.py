"""Conversions that were stopped: gone on with, or told apart from others."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from original_llava import loaded
from random_llava import (
    CONFIG,
    assert_same_tree,
    torch_llava,
)
from safetensors.numpy import load_file, save_file

from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.hf_llava import load_llava
from vlm_jax.checkpoints.native import CONFIG_FILE, WEIGHTS_FILE
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.errors import InputError


class Killed(BaseException):
    pass


def begun(source, target, count, tokenizer=None, **how):
    """A conversion that is killed after so many tensors; the hidden folder that it leaves."""
    left = count

    def die(size):
        nonlocal left
        left -= 1
        if not left:
            raise Killed

    with pytest.raises(Killed):
        convert(source, target, tokenizer, step=die, **how)
    assert not target.exists()
    return target.with_name(f".{target.name}.converting")


@pytest.fixture
def source(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    return open_source(tmp_path / "hf")


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "words").mkdir()
    (tmp_path / "words/tokenizer.json").write_text("{}")
    return tmp_path / "words"


def test_a_killed_conversion_goes_on(source, tmp_path):
    convert(source, tmp_path / "straight", None, scheme="nf4")
    log = begun(source, tmp_path / "ours", 20, scheme="nf4") / "done.jsonl"
    log.write_text(log.read_text() + '{"tensor": "cut o')
    with pytest.raises(InputError, match=r"settings\.scheme 'nf4' instead of 'int8'"):
        convert(source, tmp_path / "ours", None, scheme="int8")
    again = []
    convert(source, tmp_path / "ours", None, scheme="nf4", step=again.append)
    assert len(again) == len(source.slots) - 20
    for name in (WEIGHTS_FILE, CONFIG_FILE, "quantization.json"):
        assert (tmp_path / "ours" / name).read_bytes() == (tmp_path / "straight" / name).read_bytes()


def test_a_mistake_does_not_end_what_was_begun(source, tokenizer, tmp_path):
    begun(source, tmp_path / "ours", 20, tokenizer)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="found no tokenizer"):
        convert(source, tmp_path / "ours", tmp_path / "none")
    again = []
    convert(source, tmp_path / "ours", tokenizer, step=again.append)
    assert len(again) == len(source.slots) - 20


def test_another_tokenizer_is_another_conversion(source, tokenizer, tmp_path):
    begun(source, tmp_path / "ours", 20, tokenizer)
    (tokenizer / "added_tokens.json").write_text("{}")
    with pytest.raises(InputError, match=r"settings\.tokenizer '[0-9a-f]+' instead of"):
        convert(source, tmp_path / "ours", tokenizer)


def test_other_weights_are_another_conversion(source, tmp_path):
    begun(source, tmp_path / "ours", 20)
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["language_model.model.norm.weight"][0] += 1
    save_file(tensors, tmp_path / "hf/model.safetensors")
    with pytest.raises(InputError, match=r"settings\.sha256 '[0-9a-f]+' instead of"):
        convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)


@pytest.mark.parametrize(
    "garbage", ['{"tensor": "x"}\nnot json\n', '{"foo": 1}\n', '{"tensor": "x"}\n', "7\n", "\udcff\n"]
)
def test_garbage_among_the_rows_that_are_done(garbage, source, tmp_path):
    log = begun(source, tmp_path / "ours", 20) / "done.jsonl"
    log.write_bytes(garbage.encode(errors="surrogateescape"))
    with pytest.raises(
        InputError, match=r"done\.jsonl: found rows that no .*; delete .*\.ours\.converting to begin anew"
    ):
        convert(source, tmp_path / "ours", None)
    assert log.exists()


def test_a_conversion_killed_between_its_name_and_its_end(source, tmp_path, monkeypatch):
    """The result is whole, and what is left of its making tells no later conversion that tensors are there."""

    rename = Path.rename

    def rename_and_die(path, target):
        rename(path, target)
        raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", rename_and_die)
        with pytest.raises(Killed):
            convert(source, tmp_path / "ours", None)
    names = sorted(path.name for path in (tmp_path / "ours").iterdir())
    assert names == sorted([WEIGHTS_FILE, CONFIG_FILE])
    whole = (tmp_path / "ours").rename(tmp_path / "whole")
    convert(source, tmp_path / "ours", None)
    assert (tmp_path / "ours" / WEIGHTS_FILE).read_bytes() == (whole / WEIGHTS_FILE).read_bytes()
    assert not list(tmp_path.glob(".*"))


def test_two_conversions_of_one_target(source, tmp_path):
    complaints = []

    def meanwhile(size):
        if not complaints:
            with pytest.raises(
                InputError, match=r"\.ours\.converting: found a folder in use by another process"
            ) as caught:
                convert(source, tmp_path / "ours", None)
            complaints.append(caught.value)

    convert(source, tmp_path / "ours", None, step=meanwhile)
    assert complaints
    assert_same_tree(jax.tree.map(np.asarray, loaded(tmp_path / "ours")[1]), load_llava(tmp_path / "hf")[1])


def test_a_conversion_killed_before_the_header_goes_on(source, tmp_path):
    partial = begun(source, tmp_path / "ours", 1)
    (partial / "checkpoint" / WEIGHTS_FILE).write_bytes(b"")
    (partial / "done.jsonl").unlink()
    convert(source, tmp_path / "ours", None)
    assert_same_tree(jax.tree.map(np.asarray, loaded(tmp_path / "ours")[1]), load_llava(tmp_path / "hf")[1])


def test_another_config_is_another_conversion(source, tmp_path):
    begun(source, tmp_path / "ours", 1)
    config = json.loads((tmp_path / "hf/config.json").read_text())
    config["text_config"]["rms_norm_eps"] = 0.1
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"config\.language\.norm_eps 1e-05 instead of 0\.1"):
        convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
