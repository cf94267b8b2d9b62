"""Checkpoints that cannot be read: clear words, nothing run, nothing left behind."""

import json
import re

import numpy as np
import pytest
import torch
from original_llava import loaded, original_config, original_tensors
from random_llava import (
    CONFIG,
    LINEAR,
    torch_llava,
)
from safetensors.numpy import load_file, save_file

from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.native import CONFIG_FILE
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.errors import InputError


class _Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_a_malicious_pickle_is_refused_and_not_run(tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    torch.save({"model.norm.weight": _Attack(tmp_path / "owned")}, folder / "pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"pytorch_model.bin: found a pickle that asks for io.open; it was not"
    ) as caught:
        open_source(folder)
    assert "weights_only" not in str(caught.value)
    assert not (tmp_path / "owned").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_truncated_weights_are_named(name, tmp_path):
    folder = tmp_path / "original"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    tensors = original_tensors(torch_llava(CONFIG), CONFIG)
    if name.endswith("bin"):
        torch.save(tensors, folder / name)
    else:
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, folder / name)
    whole = (folder / name).read_bytes()
    (folder / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=re.escape(str(folder / name))):
        open_source(folder)


def test_an_index_that_disagrees_with_its_files(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    (tmp_path / "hf/model.safetensors").rename(tmp_path / "hf/one.safetensors")
    names = load_file(tmp_path / "hf/one.safetensors")
    index = tmp_path / "hf/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys([*names, "lost.weight"], "one.safetensors")}))
    with pytest.raises(InputError, match=r"1 tensors that are not where it says: lost.weight in one.safetensors"):
        open_source(tmp_path / "hf")
    *named, left_out = sorted(names)
    index.write_text(json.dumps({"weight_map": dict.fromkeys(named, "one.safetensors")}))
    with pytest.raises(InputError, match=rf"1 tensors that it leaves out: {re.escape(left_out)} in one.safetensors"):
        open_source(tmp_path / "hf")


def test_an_index_may_leave_out_computed_buffers(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    (tmp_path / "hf/model.safetensors").unlink()
    old = {"language_model.model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}
    save_file({**tensors, **old}, tmp_path / "hf/one.safetensors")
    index = {"weight_map": dict.fromkeys(tensors, "one.safetensors")}
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps(index))
    assert len(open_source(tmp_path / "hf").slots) == len(tensors)


@pytest.mark.parametrize("file", ["../hf/model.safetensors", "/model.safetensors", "", "..", "a\0b"])
def test_an_index_that_leaves_its_folder(file, tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    names = load_file(tmp_path / "hf/model.safetensors")
    (tmp_path / "other").mkdir()
    (tmp_path / "other/config.json").write_text((tmp_path / "hf/config.json").read_text())
    index = tmp_path / "other/model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(names, file)}))
    with pytest.raises(InputError, match=r"index.json: found files \[.*\]; expected files of this folder"):
        open_source(tmp_path / "other")


def test_whole_weights_beside_an_index(tmp_path):
    """transformers reads the whole file, whatever the index says."""
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    names = load_file(tmp_path / "hf/model.safetensors")
    save_file({name: 0 * tensor for name, tensor in names.items()}, tmp_path / "hf/old.safetensors")
    index = {"weight_map": dict.fromkeys(names, "old.safetensors")}
    (tmp_path / "hf/model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"hf: found model.safetensors and model.safetensors.index.json; expected one"):
        open_source(tmp_path / "hf")


def test_a_config_that_contradicts_the_tensors_leaves_nothing(tmp_path, monkeypatch):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    config = json.loads((tmp_path / "hf/config.json").read_text())
    config["text_config"]["intermediate_size"] = 41
    (tmp_path / "hf/config.json").write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"9 mis-shaped: .*gate_proj"):
        open_source(tmp_path / "hf")


def test_a_broken_source_leaves_nothing_half_written(tmp_path, monkeypatch):
    torch_llava(LINEAR).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["multi_modal_projector.linear_2.weight"][0, 1] = 1
    save_file(tensors, tmp_path / "hf/model.safetensors")
    with pytest.raises(InputError, match="not the identity"):
        convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hf"]


def test_a_native_folder_of_another_config_is_refused(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    raw = json.loads((tmp_path / "ours" / CONFIG_FILE).read_text())
    raw["config"]["language"]["mlp_width"] = 44
    (tmp_path / "ours" / CONFIG_FILE).write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"language/blocks/mlp/down/kernel \[3, 40, 48\] instead of \[3, 44, 48\]"):
        loaded(tmp_path / "ours")
