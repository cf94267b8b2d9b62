"""Every layout to our own: logits as torch computes them, nothing lost, and clear words where something is wrong."""

import dataclasses
import json
import re
import tracemalloc

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from original_llava import assert_logits_agree, loaded, original_config, original_tensors, write_tower
from random_llava import (
    CONFIG,
    LINEAR,
    assert_same_tree,
    random_base,
    torch_llava,
)
from safetensors.numpy import load_file, save_file

from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.export import export
from vlm_jax.checkpoints.hf_llava import load_llava, save_llava
from vlm_jax.checkpoints.merge import write_merged
from vlm_jax.checkpoints.native import load_native, read_info
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.errors import InputError
from vlm_jax.files import read_json
from vlm_jax.models.adapters import init_lora
from vlm_jax.parallel.mesh import make_mesh


@pytest.fixture(scope="module", params=["mlp", "linear"])
def pair(request):
    config = CONFIG if request.param == "mlp" else LINEAR
    return config, torch_llava(config)


def test_transformers_layout_gives_its_logits(pair, tmp_path):
    config, model = pair
    model.save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    assert not list(tmp_path.glob(".*"))
    ours, base = loaded(tmp_path / "ours")
    assert (ours.language, ours.vision, ours.projector) == (config.language, config.vision, config.projector)
    assert_logits_agree(ours, base, model)
    info = read_info(tmp_path / "ours")
    assert info.source["layout"] == "hf"
    assert re.fullmatch("[0-9a-f]{64}", info.source["sha256"])
    assert_same_tree(jax.tree.map(np.asarray, base), load_llava(tmp_path / "hf")[1])


@pytest.mark.parametrize("form", ["bin", "sharded bin", "safetensors"])
def test_original_layout_with_its_tower_and_without(pair, form, tmp_path):
    config, model = pair
    folder = tmp_path / "original"
    folder.mkdir()
    tensors = original_tensors(model, config)
    tower = form != "bin"
    if not tower:
        tensors = {name: tensor for name, tensor in tensors.items() if "vision_tower" not in name}
    write_tower(tmp_path / "clip", model, "" if form == "safetensors" else "vision_model.")
    (folder / "config.json").write_text(json.dumps(original_config(config)))
    names = sorted(tensors)
    if form == "bin":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif form == "safetensors":
        save_file({name: tensor.numpy() for name, tensor in tensors.items()}, folder / "model.safetensors")
    else:
        halves = {"a.bin": names[::2], "b.bin": names[1::2]}
        for file, part in halves.items():
            torch.save({name: tensors[name] for name in part}, folder / file)
        index = {"weight_map": {name: file for file, part in halves.items() for name in part}}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    if not tower:
        with pytest.raises(InputError, match="mm_vision_tower 'somewhere/clip'"):
            open_source(folder)
    convert(open_source(folder, vision=tmp_path / "clip"), tmp_path / "ours", None)
    ours, base = loaded(tmp_path / "ours")
    assert ours.image_token_id == config.language.vocab_size
    assert_logits_agree(dataclasses.replace(ours, image_token_id=config.image_token_id), base, model)


def test_a_llama_with_a_projector_file_and_a_tower(pair, tmp_path):
    config, model = pair
    tensors = original_tensors(model, config)
    projector = {f"base_model.model.{n}": t for n, t in tensors.items() if "mm_projector" in n}
    torch.save(projector, tmp_path / "mm_projector.bin")
    folder = tmp_path / "vicuna"
    folder.mkdir()
    language = {n: t.numpy() for n, t in tensors.items() if "mm_projector" not in n and "vision" not in n}
    save_file(language, folder / "model.safetensors")
    plain = {k: v for k, v in original_config(config, model_type="llama").items() if not k.startswith("mm_")}
    (folder / "config.json").write_text(json.dumps(plain))
    write_tower(tmp_path / "clip", model, "vision_model.")
    source = open_source(folder, vision=tmp_path / "clip", projector=tmp_path / "mm_projector.bin")
    convert(source, tmp_path / "ours", None)
    ours, base = loaded(tmp_path / "ours")
    assert_logits_agree(dataclasses.replace(ours, image_token_id=config.image_token_id), base, model)


def test_delta_weights(tmp_path):
    """target = delta + base in float16, extra vocabulary rows and the projector as they are (LLaVA apply_delta.py)."""
    model = torch_llava(LINEAR, torch.float16)
    whole = original_tensors(model, LINEAR)
    rng = np.random.default_rng(0)
    base, delta = {}, dict(whole)
    for name, tensor in whole.items():
        if name.startswith(("model.layers", "model.norm", "model.embed", "lm_head")) and "inv_freq" not in name:
            rows = 58 if tensor.shape[0] == LINEAR.language.vocab_size else tensor.shape[0]
            base[name] = torch.tensor(rng.standard_normal((rows, *tensor.shape[1:])), dtype=torch.float16)
            delta[name] = tensor.clone()
            delta[name][:rows] -= base[name]
    for folder, tensors in (("base", base), ("delta", delta)):
        (tmp_path / folder).mkdir()
        torch.save(tensors, tmp_path / folder / "pytorch_model.bin")
    (tmp_path / "delta/config.json").write_text(json.dumps(original_config(LINEAR)))
    write_tower(tmp_path / "clip", model, "")
    source = open_source(tmp_path / "delta", vision=tmp_path / "clip", base=tmp_path / "base")
    for name in source.slots:
        expected = delta[name].clone() if name in delta else None
        if name in base:
            expected[: len(base[name])] += base[name]
        if expected is not None and "vision" not in name:
            np.testing.assert_array_equal(source.read(name), expected.numpy())
    near_nothing = delta["model.norm.weight"] * 0.001
    torch.save(delta | {"model.norm.weight": near_nothing}, tmp_path / "delta/pytorch_model.bin")
    with pytest.raises(InputError, match=r"stored as a difference to a LLaMA; expected --base"):
        open_source(tmp_path / "delta", vision=tmp_path / "clip")
    base["model.norm.weight"] = torch.ones(99)
    torch.save(base, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(InputError, match=r"model.norm.weight \[99\] under a delta of \[48\]"):
        open_source(tmp_path / "delta", vision=tmp_path / "clip", base=tmp_path / "base")
    # A smaller LLaMA, of which every tensor would fit into a corner.
    smaller = {name: tensor[tuple(slice(n - 1) for n in tensor.shape)].clone() for name, tensor in base.items()}
    del smaller["model.layers.2.mlp.up_proj.weight"]
    torch.save(smaller, tmp_path / "base/pytorch_model.bin")
    with pytest.raises(InputError, match=r"up_proj.weight in .*delta.pytorch_model.bin alone; .* under a delta of"):
        open_source(tmp_path / "delta", vision=tmp_path / "clip", base=tmp_path / "base")


def test_every_tensor_keeps_its_type_unless_asked(tmp_path):
    model = torch_llava(CONFIG, torch.bfloat16)
    model.save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    _, base = loaded(tmp_path / "ours")
    assert {leaf.dtype for leaf in jax.tree.leaves(base)} == {jnp.dtype("bfloat16")}
    convert(open_source(tmp_path / "hf"), tmp_path / "wide", None, dtype="float32")
    _, wide = loaded(tmp_path / "wide")
    jax.tree.map(lambda one, two: np.testing.assert_array_equal(one.astype(jnp.float32), two), base, wide)


@pytest.mark.parametrize("scheme", ["int8", "nf4", "nf4_double"])
def test_quantised_conversion_reports_its_error(scheme, tmp_path):
    from vlm_jax.models.quantize import quantize_base

    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    rows = convert(open_source(tmp_path / "hf"), tmp_path / "ours", None, scheme=scheme)
    _, base = loaded(tmp_path / "ours")
    whole = jax.jit(quantize_base, static_argnums=1)(load_llava(tmp_path / "hf")[1], scheme)
    assert jax.tree.structure(base) == jax.tree.structure(whole)
    for one, other in zip(jax.tree.leaves(base), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(np.asarray(one, np.float64), np.asarray(other, np.float64), rtol=1e-6)
    report = json.loads((tmp_path / "ours/quantization.json").read_text())["tensors"]
    assert len(report) == 7 * CONFIG.language.layers
    low, high = (0.002, 0.02) if scheme == "int8" else (0.05, 0.15)
    assert all(low < row["relative_rms"] < high for row in report)
    assert len(rows) == len(open_source(tmp_path / "hf").slots)


def test_neither_converting_nor_merging_holds_the_model(tmp_path):
    """As far as NumPy holds it: what jax holds is not traced."""
    wide = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, mlp_width=4096, layers=12))
    base = random_base(wide)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(base))
    save_llava(tmp_path / "hf", wide, base, None)
    del base
    lora = jax.tree.map(np.asarray, init_lora(wide, jax.random.key(0)))
    source = open_source(tmp_path / "hf")
    peaks = []
    for work in (
        lambda: convert(source, tmp_path / "ours", None),
        lambda: write_merged(tmp_path / "merged", wide, source.stored(), lora, None, {}),
    ):
        tracemalloc.start()
        work()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert max(peaks) < size / 2


def test_devices_share_what_a_file_holds(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None, scheme="int8")
    _, one = load_native(tmp_path / "ours", make_mesh())
    _, spread = load_native(tmp_path / "ours", make_mesh(fsdp=2, tensor=2))
    for whole, parts in zip(jax.tree.leaves(one), jax.tree.leaves(spread), strict=True):
        np.testing.assert_array_equal(np.asarray(whole), np.asarray(parts))
    kernel = spread["language"]["blocks"]["mlp"]["gate"]["kernel"].values
    assert kernel.addressable_shards[0].data.size * 4 == kernel.size


def test_layers_of_different_types_lose_nothing(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    name = "language_model.model.layers.{}.self_attn.q_proj.weight"
    tensors[name.format(0)] = tensors[name.format(0)].astype(jnp.bfloat16)
    save_file(tensors, tmp_path / "hf/model.safetensors")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None)
    for base in (loaded(tmp_path / "ours")[1], load_llava(tmp_path / "hf")[1]):
        kernel = base["language"]["blocks"]["attention"]["q"]["kernel"]
        assert kernel.dtype == np.float32
        np.testing.assert_array_equal(kernel[2], tensors[name.format(2)].T)
        np.testing.assert_array_equal(kernel[0], tensors[name.format(0)].astype(np.float32).T)


def test_values_too_large_for_a_type_are_refused(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors["language_model.model.norm.weight"][5] = 1e5
    save_file(tensors, tmp_path / "hf/model.safetensors")
    with pytest.raises(InputError, match=r"values of language_model.model.norm.weight beyond float16"):
        convert(open_source(tmp_path / "hf"), tmp_path / "no", None, dtype="float16")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None, dtype="bfloat16")
    config, base = load_llava(tmp_path / "hf")
    with pytest.raises(InputError, match=r"values of language_model.model.norm.weight beyond float16"):
        export(tmp_path / "no", "hf", config, base, None, "float16")
    assert not list(tmp_path.glob("*no*"))


def test_a_kernel_of_zeros_is_quantised_without_error(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    empty = "language_model.model.layers.1.mlp.gate_proj.weight"
    tensors[empty][:] = 0
    save_file(tensors, tmp_path / "hf/model.safetensors")
    rows = {row["tensor"]: row for row in convert(open_source(tmp_path / "hf"), tmp_path / "x", None, scheme="int8")}
    assert rows[empty] == {"tensor": empty, "relative_rms": 0.0, "largest": 0.0}
    read_json(tmp_path / "x/quantization.json")


def test_halves_of_both_kinds_in_one_leaf(tmp_path):
    """Neither holds the other's values; float32 does."""
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    tensors = load_file(tmp_path / "hf/model.safetensors")
    name, whole = "language_model.model.layers.{}.self_attn.q_proj.weight", "language_model.lm_head.weight"
    tensors[name.format(0)] = tensors[name.format(0)].astype(jnp.bfloat16)
    for i in (1, 2):
        tensors[name.format(i)] = tensors[name.format(i)].astype(np.float16)
    tensors[whole] = tensors[whole].astype(np.float16)
    save_file(tensors, tmp_path / "hf/model.safetensors")
    source = open_source(tmp_path / "hf")
    where = "language/blocks/attention/q/kernel"
    assert source.remarks == (f"{where} is bfloat16 and float16 in its layers: float32 for all of them",)
    convert(source, tmp_path / "ours", None)
    convert(source, tmp_path / "small", None, scheme="int8")
    for base in (loaded(tmp_path / "ours")[1], load_llava(tmp_path / "hf")[1]):
        kernel = base["language"]["blocks"]["attention"]["q"]["kernel"]
        assert kernel.dtype == np.float32
        for i in range(3):
            np.testing.assert_array_equal(kernel[i], tensors[name.format(i)].astype(np.float32).T)
        # A leaf of one tensor keeps its type.
        assert base["language"]["head"]["kernel"].dtype == np.float16
