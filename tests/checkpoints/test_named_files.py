"""Complaints name the file that holds what is wrong, and say what it really is."""

import json
import os
import re
import stat
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest
import torch
from original_llava import original_config, original_tensors, write_tower
from random_llava import CONFIG, random_base, torch_llava
from safetensors.numpy import load_file, save_file
from small_tokenizer import write_llama_tokenizer

from vlm_jax.checkpoints.adapters import load_adapter, save_adapter
from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.hf_llava import save_llava
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.checkpoints.tensor_files import TensorFile, open_file, weight_files
from vlm_jax.data.tokenizers import load_tokenizer
from vlm_jax.errors import InputError
from vlm_jax.files import read_json
from vlm_jax.models.adapters import init_lora

POINTER = (
    "version https://git-lfs.github.com/spec/v1\n"
    "oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\nsize 12345\n"
)


@pytest.fixture(scope="module")
def model():
    return torch_llava(CONFIG)


@pytest.fixture
def parts(model, tmp_path):
    """An original checkpoint in two shards, its CLIP and its projector file; the options that open them."""
    tensors = original_tensors(model, CONFIG)
    folder = tmp_path / "original"
    folder.mkdir()
    projector = {name: tensor for name, tensor in tensors.items() if "mm_projector" in name}
    rest = {name: tensor for name, tensor in tensors.items() if not re.search("mm_projector|vision", name)}
    shards = {"a.bin": sorted(rest)[::2], "b.bin": sorted(rest)[1::2]}
    for file, names in shards.items():
        torch.save({name: rest[name] for name in names}, folder / file)
    index = {"weight_map": {name: file for file, names in shards.items() for name in names}}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    torch.save(projector, tmp_path / "mm_projector.bin")
    write_tower(tmp_path / "clip", model, "vision_model.")
    return {"folder": folder, "vision": tmp_path / "clip", "projector": tmp_path / "mm_projector.bin"}


def changed(path, change):
    """A torch file with its tensors changed."""
    tensors = torch.load(path)
    change(tensors)
    torch.save(tensors, path)


def test_a_projector_of_another_model(parts):
    open_source(**parts)
    wider = {f"model.mm_projector.{i}.{part}": torch.zeros(64, 64) for i in (0, 2) for part in ("weight", "bias")}
    torch.save(wider, parts["projector"])
    with pytest.raises(
        InputError, match=r"mm_projector.bin: found 4 mis-shaped: model.mm_projector.0.weight \[64, 64\]"
    ):
        open_source(**parts)


def test_a_projector_with_a_tensor_too_few_and_one_too_many(parts):
    def rename(tensors):
        tensors["model.mm_projector.3.bias"] = tensors.pop("model.mm_projector.2.bias")

    changed(parts["projector"], rename)
    found = r"mm_projector.bin: found 1 missing: model.mm_projector.2.bias \[48\]; 1 unknown: model.mm_projector.3.bias"
    with pytest.raises(InputError, match=found):
        open_source(**parts)


def test_a_projector_of_another_kind(parts):
    config = read_json(parts["folder"] / "config.json")
    (parts["folder"] / "config.json").write_text(json.dumps({**config, "mm_projector_type": "linear"}))
    with pytest.raises(InputError, match=r"'linear' over tensors of a mlp2x_gelu one in .*/mm_projector.bin"):
        open_source(**parts)


def test_a_tower_of_other_tensors_under_its_own_names(parts):
    name = "vision_model.encoder.layers.1.mlp.fc1.bias"
    changed(parts["vision"] / "pytorch_model.bin", lambda tensors: tensors.update({name: torch.zeros(51)}))
    with pytest.raises(
        InputError, match=rf"clip/pytorch_model.bin: found 1 mis-shaped: {name} \[51\] instead of \[50\]"
    ):
        open_source(**parts)


def test_the_shard_is_named(parts):
    name = "model.layers.1.self_attn.q_proj.weight"
    file = read_json(parts["folder"] / "pytorch_model.bin.index.json")["weight_map"][name]
    changed(parts["folder"] / file, lambda tensors: tensors.update({name: torch.zeros(5, 5)}))
    with pytest.raises(InputError, match=rf"original/{file}: found 1 mis-shaped: {name} \[5, 5\]"):
        open_source(**parts)


def test_two_files_in_one_message(parts):
    name = "model.norm.weight"
    file = read_json(parts["folder"] / "pytorch_model.bin.index.json")["weight_map"][name]
    changed(parts["folder"] / file, lambda tensors: tensors.update({name: torch.zeros(5)}))
    changed(parts["projector"], lambda tensors: tensors.pop("model.mm_projector.0.bias"))
    with pytest.raises(InputError) as caught:
        open_source(**parts)
    assert f"{parts['projector']}" in str(caught.value)
    assert f"{parts['folder'] / file}" in str(caught.value)
    assert "1 mis-shaped: model.norm.weight [5]" in str(caught.value)
    assert "1 missing: model.mm_projector.0.bias [48]" in str(caught.value)


@pytest.mark.parametrize("option", ["vision", "projector", "base"])
def test_a_path_that_is_not_there(option, parts, tmp_path):
    found = r"nowhere(/config.json)?: found no such file"
    with pytest.raises(InputError, match=found):
        open_source(**{**parts, option: tmp_path / "nowhere"})


def test_a_base_that_lacks_a_tensor(parts, tmp_path):
    (tmp_path / "base").mkdir()
    whole = {n: t for file in ("a.bin", "b.bin") for n, t in torch.load(parts["folder"] / file).items()}
    lost = "model.layers.0.mlp.up_proj.weight"
    torch.save({n: t for n, t in whole.items() if n != lost}, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(
        InputError, match=rf"base/pytorch_model.bin: found {lost} in .*/original/\w.bin alone; expected"
    ):
        open_source(**parts, base=tmp_path / "base")
    whole["model.norm.weight"] = torch.ones(9)
    torch.save(whole, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(
        InputError, match=r"base/pytorch_model.bin: found model.norm.weight \[9\] under a delta of \[48\]"
    ):
        open_source(**parts, base=tmp_path / "base")


def test_a_second_matrix_in_its_own_file(tmp_path):
    """Not the folder: the file that holds it."""
    linear = torch_llava(CONFIG)
    linear.config.projector_hidden_act = "linear"
    linear.save_pretrained(tmp_path / "hf")
    with pytest.raises(InputError, match=r"hf/model.safetensors: found a second projector matrix"):
        list(open_source(tmp_path / "hf").parts())


@pytest.mark.parametrize(
    "name", ["a.bin", "config.json", "pytorch_model.bin.index.json", "../mm_projector.bin", "../clip/pytorch_model.bin"]
)
def test_pointers_of_git_lfs_in_an_original_checkpoint(name, parts):
    (parts["folder"] / name).write_text(POINTER)
    file = re.escape(Path(name).name)
    with pytest.raises(InputError, match=rf"{file}: found a Git LFS pointer in the file's place; .*git lfs pull"):
        open_source(**parts)


@pytest.mark.parametrize("name", ["model.safetensors", "tokenizer.json", "tokenizer.model", "chat_template.jinja"])
def test_pointers_of_git_lfs_in_transformers_layout(name, tmp_path):
    save_llava(tmp_path / "hf", CONFIG, random_base(CONFIG), write_llama_tokenizer(tmp_path / "words"))
    open_source(tmp_path / "hf")
    (tmp_path / "hf" / name).write_text(POINTER)
    with pytest.raises(InputError, match=rf"hf/{name}: found a Git LFS pointer"):
        open_source(tmp_path / "hf")


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "adapter_model.bin", "adapter_config.json"])
def test_pointers_of_git_lfs_in_an_adapter(name, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "bias": "none", "r": 3, "lora_alpha": 6}')
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(InputError, match=rf"{name}: found a Git LFS pointer"):
        load_adapter(tmp_path, CONFIG)


def test_a_short_file_is_no_pointer(tmp_path):
    (tmp_path / "x.safetensors").write_text("version https://example.org\n")
    with pytest.raises(InputError, match=r"x.safetensors: found .*; expected a complete safetensors file"):
        TensorFile(tmp_path / "x.safetensors")


@pytest.fixture
def nobody():
    """A folder whose files a user without rights reads; root's own rights know no bounds."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        uid = os.geteuid()
        yield Path(folder), (lambda: os.seteuid(65534)) if uid == 0 else (lambda: None)
        if uid == 0:
            os.seteuid(0)


@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin", "config.json", "tokenizer.json"])
def test_what_is_not_permitted_is_not_missing(name, nobody):
    folder, become = nobody
    write_llama_tokenizer(folder)
    save_file({"x": np.zeros(1, np.float32)}, folder / "model.safetensors")
    (folder / "pytorch_model.bin").write_bytes(b"x")
    (folder / "config.json").write_text("{}")
    (folder / name).chmod(0)
    read = {"config.json": read_json, "tokenizer.json": lambda path: load_tokenizer(path.parent)}
    if name == "pytorch_model.bin":
        (folder / "model.safetensors").unlink()
    become()
    try:
        with pytest.raises(InputError, match=rf"{name}: found a file that is not permitted to be read"):
            read.get(name, open_file)(folder / name)
    finally:
        if os.getuid() == 0:
            os.seteuid(0)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077])
def test_written_files_follow_the_umask(mask, tmp_path):
    before = os.umask(mask)
    try:
        save_llava(tmp_path / "hf", CONFIG, random_base(CONFIG), None)
        convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
        save_adapter(tmp_path / "adapter", CONFIG, {"lora": init_lora(CONFIG, jax.random.key(0))})
    finally:
        os.umask(before)
    files = [path for folder in ("hf", "ours", "adapter") for path in (tmp_path / folder).iterdir()]
    assert len(files) > 6
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o666 & ~mask}
    assert load_file(tmp_path / "hf/model.safetensors")


@pytest.mark.parametrize(
    ("there", "found"),
    [
        (
            {"mm_projector.bin"},
            "no weights, but mm_projector.bin; expected .*; a projector's file goes behind",
        ),
        ({"a.gguf"}, "no weights, but a.gguf; expected .*; llama.cpp's GGUF is not read"),
        (
            {"optimizer.pt", "zero_to_fp32.py"},
            "no weights, but optimizer.pt, zero_to_fp32.py; .*py gathers",
        ),
        (set(), "no weights; expected model.safetensors or pytorch_model.bin$"),
    ],
    ids=["a projector", "GGUF", "DeepSpeed's parts", "nothing"],
)
def test_what_lies_there_in_place_of_weights(there, found, tmp_path):
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=re.escape(str(tmp_path)) + f": found {found}"):
        weight_files(tmp_path)


def test_tensors_that_were_saved_without_values(parts):
    """DeepSpeed's ZeRO-3, of models and of a projector beside."""
    for file in (parts["folder"] / "a.bin", parts["projector"]):
        whole = torch.load(file)
        changed(file, lambda tensors: tensors.update(dict.fromkeys(tensors, torch.zeros(0))))
        found = f"{file}: found {len(whole)} tensors without values: .*; expected their values, .* ZeRO-3"
        with pytest.raises(InputError, match=found):
            open_source(**parts)
        torch.save(whole, file)


def test_a_llama_without_a_projector(parts):
    with pytest.raises(InputError, match=r"index.json: found no projector in it; expected --projector"):
        open_source(parts["folder"], vision=parts["vision"])
