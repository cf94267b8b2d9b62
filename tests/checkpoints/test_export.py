"""What is converted and exported again is the same to the bit, and torch computes with it what we do."""

import dataclasses
import json

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from random_llava import CONFIG, LINEAR, logits_of, make_batch, random_base, torch_llava
from safetensors.numpy import load_file, save_file
from test_convert import original_config, original_tensors, write_tower

from vlm_jax.checkpoints.adapters import load_adapter, save_adapter
from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.export import export, export_adapter
from vlm_jax.checkpoints.native import load_native, map_native
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.errors import InputError
from vlm_jax.models.adapters import init_lora, init_reward_head
from vlm_jax.models.llava import forward, logits
from vlm_jax.models.quantize import Nf4Kernel, dense
from vlm_jax.parallel.mesh import make_mesh


def tensors_of(folder):
    return {name: tensor for path in sorted(folder.glob("*.safetensors")) for name, tensor in load_file(path).items()}


def assert_same_tensors(left, right):
    assert left.keys() == right.keys()
    for name, tensor in left.items():
        assert tensor.dtype == right[name].dtype, name
        np.testing.assert_array_equal(tensor.view(np.uint8), right[name].view(np.uint8), err_msg=name)


def to_ours(source, target):
    convert(source, target, None)
    info, base = map_native(target)
    return info.config, base


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("config", [CONFIG, LINEAR], ids=["mlp", "linear"])
def test_transformers_layout_comes_back_to_the_bit(config, dtype, tmp_path):
    torch_llava(config, dtype).save_pretrained(tmp_path / "hf")
    export(tmp_path / "again", "hf", *to_ours(open_source(tmp_path / "hf"), tmp_path / "ours"), None)
    theirs = {
        # The form that every version reads has one level more.
        name.replace("vision_tower.", "vision_tower.vision_model.") if "vision_model" not in name else name: tensor
        for name, tensor in tensors_of(tmp_path / "hf").items()
    }
    assert_same_tensors(tensors_of(tmp_path / "again"), theirs)
    batch = make_batch(config)
    load = transformers.LlavaForConditionalGeneration.from_pretrained
    one, two = (logits_of(load(tmp_path / name, dtype=torch.float32), batch) for name in ("hf", "again"))
    np.testing.assert_array_equal(one, two)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("config", [CONFIG, LINEAR], ids=["mlp", "linear"])
def test_original_layout_comes_back_to_the_bit(config, dtype, tmp_path):
    model = torch_llava(config, dtype)
    (tmp_path / "one").mkdir()
    tensors = original_tensors(model, config)
    torch.save(tensors, tmp_path / "one/pytorch_model.bin")
    (tmp_path / "one/config.json").write_text(json.dumps(original_config(config)))
    write_tower(tmp_path / "clip", model, "")
    ours = to_ours(open_source(tmp_path / "one", vision=tmp_path / "clip"), tmp_path / "ours")
    with pytest.raises(InputError, match="expected --vision-tower"):
        export(tmp_path / "two", "llava", *ours, None)
    export(tmp_path / "two", "llava", *ours, None, vision_tower="somewhere/clip")
    del tensors["model.layers.0.self_attn.rotary_emb.inv_freq"]
    source = open_source(tmp_path / "two", vision=tmp_path / "clip")
    assert source.config == ours[0]
    written = {name: source.read(name) for name in source.slots}
    first = open_source(tmp_path / "one", vision=tmp_path / "clip")
    assert_same_tensors(written, {name: np.array(first.read(name)) for name in tensors})


def test_padded_vocabulary_goes_both_ways(tmp_path):
    """32000 rows become 32064 with the mean for transformers, and 32000 again; scaled down to 61 and 64."""
    outside = dataclasses.replace(CONFIG, image_token_id=61)
    base = random_base(outside)
    export(tmp_path / "hf", "hf", outside, base, None)
    head = load_file(tmp_path / "hf/model.safetensors")["language_model.lm_head.weight"]
    assert head.shape == (64, 48)
    np.testing.assert_allclose(head[61:], np.broadcast_to(head[:61].mean(0), (3, 48)), atol=1e-6)
    raw = json.loads((tmp_path / "hf/config.json").read_text())
    del raw["vlm_jax"]
    (tmp_path / "hf/config.json").write_text(json.dumps(raw))
    config, foreign = to_ours(open_source(tmp_path / "hf"), tmp_path / "ours")
    assert config.language.vocab_size == 64
    export(tmp_path / "original", "llava", config, foreign, None, vision_tower="clip")
    tensors = tensors_of(tmp_path / "original")
    np.testing.assert_array_equal(tensors["lm_head.weight"], np.asarray(base["language"]["head"]["kernel"]).T)
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], base["language"]["embedding"])


def test_a_quantised_base_is_exported_as_what_it_stands_for(tmp_path):
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    convert(open_source(tmp_path / "hf"), tmp_path / "ours", None, scheme="nf4")
    info, base = map_native(tmp_path / "ours")
    export(tmp_path / "again", "hf", info.config, base, None)
    _, loaded = load_native(tmp_path / "ours", make_mesh())
    kernel = loaded["language"]["blocks"]["mlp"]["down"]["kernel"]
    assert isinstance(kernel, Nf4Kernel)
    written = tensors_of(tmp_path / "again")["language_model.model.layers.2.mlp.down_proj.weight"]
    np.testing.assert_allclose(written, np.asarray(dense(kernel, np.dtype("float32")))[2].T, atol=1e-7)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A random adapter and head of ours, saved, over a random LLaVA of transformers."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(
        lambda: {"lora": init_lora(CONFIG, jax.random.key(0)), "head": init_reward_head(CONFIG, jax.random.key(0))}
    )
    role = jax.tree.map(lambda leaf: (0.2 * rng.standard_normal(leaf.shape)).astype(np.float32), shapes)
    folder = tmp_path_factory.mktemp("adapter") / "ours"
    save_adapter(folder, CONFIG, role)
    return folder, role


def our_adapted_logits(folder, role, batch):
    config, base = to_ours(open_source(folder), folder.parent / "native")
    config = dataclasses.replace(config, lora=CONFIG.lora, dtype="float32")
    run = jax.jit(lambda base, lora: logits(config, base, forward(config, base, lora, batch).hidden))
    return np.asarray(run(jax.tree.map(np.asarray, base), role["lora"]))


def test_peft_on_transformers_class_computes_our_adapter_alike(trained, tmp_path):
    folder, role = trained
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    export_adapter(folder, tmp_path / "peft", "hf")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    adapted = peft.PeftModel.from_pretrained(model, tmp_path / "peft")
    assert not [name for name, _ in adapted.named_parameters() if "lora" in name and "vision" in name]
    batch = make_batch(CONFIG)
    theirs = logits_of(adapted.base_model.model, batch)
    ours = our_adapted_logits(tmp_path / "hf", role, batch)
    bare = logits_of(torch_llava(CONFIG), batch)
    assert np.abs(theirs - bare).max() > 1
    real = np.asarray(batch.attention_mask)
    assert np.abs(ours - theirs)[real].max() < 1e-5 * np.abs(theirs[real]).max()
    adapted.save_pretrained(tmp_path / "saved")
    again = load_adapter(tmp_path / "saved", CONFIG)
    jax.tree.map(np.testing.assert_array_equal, again["lora"], role["lora"])


def test_llava_rlhf_folders_are_read(trained, tmp_path):
    """``.bin`` in a folder of the adapter's name, the head beside that folder without an ending."""
    folder, role = trained
    inner = tmp_path / "checkpoint" / "lora_default"
    inner.mkdir(parents=True)
    (inner / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    tensors = load_file(folder / "adapter_model.safetensors")
    torch.save({name: torch.tensor(tensor) for name, tensor in tensors.items()}, inner / "adapter_model.bin")
    head = {"weight": torch.tensor(role["head"]["kernel"])[None], "bias": torch.tensor(role["head"]["bias"])[None]}
    torch.save(head, tmp_path / "checkpoint" / "reward_head")
    read = load_adapter(tmp_path / "checkpoint", CONFIG)
    jax.tree.map(np.testing.assert_array_equal, read, role)
    export_adapter(tmp_path / "checkpoint", tmp_path / "again", "llava")
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path / "again", CONFIG), role)


def test_adapters_of_the_vision_tower_are_refused(trained, tmp_path):
    folder, _ = trained
    tensors = load_file(folder / "adapter_model.safetensors")
    tower = "base_model.model.model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    (tmp_path / "x").mkdir()
    save_file({**tensors, tower: np.zeros((3, 36), np.float32)}, tmp_path / "x/adapter_model.safetensors")
    (tmp_path / "x/adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
    with pytest.raises(InputError, match=r"1 other tensors: .*vision_tower"):
        export_adapter(tmp_path / "x", tmp_path / "y", "hf")
    assert not (tmp_path / "y").exists()
