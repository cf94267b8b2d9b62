"""What is converted and exported again is the same to the bit, and torch computes with it what we do."""

import dataclasses
import json
import re
import shutil
import tracemalloc

import jax
import numpy as np
import peft
import pytest
import torch
import transformers
from original_llava import original_config, original_tensors, write_tower
from random_llava import CONFIG, LINEAR, assert_close_on_real, logits_of, make_batch, random_base, torch_llava
from safetensors.numpy import load_file, save_file
from their_llava import open_theirs, pictures, their_answer, write_checkpoint

from vlm_jax.checkpoints.adapters import load_adapter, save_adapter
from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.export import export, export_adapter
from vlm_jax.checkpoints.hf_llava import load_llava, save_llava
from vlm_jax.checkpoints.merge import logit_change, probe_logits, write_merged
from vlm_jax.checkpoints.native import load_native, map_native
from vlm_jax.checkpoints.opening import map_base
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.cli import main
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
    raw["pad_token_id"] = raw["text_config"]["pad_token_id"] = 62
    (tmp_path / "hf/config.json").write_text(json.dumps(raw))
    config, foreign = to_ours(open_source(tmp_path / "hf"), tmp_path / "ours")
    assert config.language.vocab_size == 64
    export(tmp_path / "original", "llava", config, foreign, None, vision_tower="clip")
    tensors = tensors_of(tmp_path / "original")
    written = json.loads((tmp_path / "original/config.json").read_text())
    assert (written["vocab_size"], written["pad_token_id"]) == (61, 0)
    np.testing.assert_array_equal(tensors["lm_head.weight"], np.asarray(base["language"]["head"]["kernel"]).T)
    np.testing.assert_array_equal(tensors["model.embed_tokens.weight"], base["language"]["embedding"])


def test_a_checkpoint_in_transformers_layout_streams(monkeypatch, tmp_path):
    """From its files to others, in the memory of a shard."""
    wide = dataclasses.replace(CONFIG, language=dataclasses.replace(CONFIG.language, mlp_width=4096, layers=12))
    save_llava(tmp_path / "hf", wide, random_base(wide), None)
    before = tensors_of(tmp_path / "hf")
    size = sum(tensor.nbytes for tensor in before.values())
    monkeypatch.setattr("vlm_jax.checkpoints.tensor_files._SHARD_BYTES", size // 12)
    config, base = map_base(tmp_path / "hf")
    tracemalloc.start()
    export(tmp_path / "again", "hf", config, base, None)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < size / 2
    assert_same_tensors(tensors_of(tmp_path / "again"), before)


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
    """Its PPO's ``checkpoint-N``: two adapters as ``.bin`` in adapter_model, the value head beside that."""
    folder, role = trained
    tensors = {n: torch.tensor(t) for n, t in load_file(folder / "adapter_model.safetensors").items()}
    step = tmp_path / "checkpoint-40"
    for name in ("lora_policy", "lora_value"):
        inner = step / "adapter_model" / name
        inner.mkdir(parents=True)
        (inner / "adapter_config.json").write_bytes((folder / "adapter_config.json").read_bytes())
        torch.save(tensors, inner / "adapter_model.bin")
    head = {"weight": torch.tensor(role["head"]["kernel"])[None], "bias": torch.tensor(role["head"]["bias"])[None]}
    torch.save(head, step / "value_head.pt")
    with pytest.raises(InputError, match=r"adapters adapter_model/lora_policy, adapter_model/lora_value"):
        load_adapter(step, CONFIG)
    value, policy = (load_adapter(step / "adapter_model" / name, CONFIG) for name in ("lora_value", "lora_policy"))
    jax.tree.map(np.testing.assert_array_equal, value, role)
    jax.tree.map(np.testing.assert_array_equal, policy, {"lora": role["lora"]})
    export_adapter(step / "adapter_model" / "lora_value", tmp_path / "again", "llava")
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path / "again", CONFIG), role)
    # A reward model's has one adapter and the head without an ending; what is published lies flat.
    shutil.rmtree(step / "adapter_model" / "lora_policy")
    (step / "adapter_model" / "lora_value").rename(step / "adapter_model" / "lora_default")
    (step / "value_head.pt").rename(step / "reward_head")
    jax.tree.map(np.testing.assert_array_equal, load_adapter(step, CONFIG), role)
    shutil.copytree(step / "adapter_model" / "lora_default", tmp_path / "flat")
    shutil.copy(step / "reward_head", tmp_path / "flat")
    jax.tree.map(np.testing.assert_array_equal, load_adapter(tmp_path / "flat", CONFIG), role)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_merging_adds_the_adapter_and_says_what_rounding_did(trained, dtype, tmp_path):
    role = trained[1]
    torch_llava(CONFIG, getattr(torch, dtype)).save_pretrained(tmp_path / "hf")
    config, base = load_llava(tmp_path / "hf")
    config = dataclasses.replace(config, lora=CONFIG.lora, dtype="float32")
    write_merged(tmp_path / "merged", config, base, role["lora"], None, {"path": "", "layout": "", "sha256": ""})
    _, merged = load_native(tmp_path / "merged", make_mesh())
    for part, names in role["lora"].items():
        for name, pair in names.items():
            before, after = (tree["language"]["blocks"][part][name]["kernel"] for tree in (base, merged))
            exact = before.astype(np.float64) + 2.0 * pair["a"].astype(np.float64) @ pair["b"].astype(np.float64)
            assert after.dtype == before.dtype == dtype
            # Rounding to the kernel's type, and no more.
            ulp = 2**-8 if dtype == "bfloat16" else 2**-22
            np.testing.assert_allclose(np.asarray(after, np.float64), exact, rtol=ulp * 1.01, atol=1e-7)
    apart = probe_logits(config, base, role["lora"])
    change, bare = (logit_change(apart, probe_logits(config, other, None)) for other in (merged, base))
    assert bare.mean > 0.1 * change.spread
    assert bare.same_choice < 0.9
    if dtype == "bfloat16":
        assert 1e-4 < change.mean < 0.05 * change.spread
    else:
        assert change.mean < 1e-4
        assert change.same_choice == 1


def test_merging_is_what_peft_merges(trained, tmp_path):
    folder, role = trained
    torch_llava(CONFIG).save_pretrained(tmp_path / "hf")
    export_adapter(folder, tmp_path / "peft", "hf")
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    theirs = peft.PeftModel.from_pretrained(model, tmp_path / "peft").merge_and_unload()
    config, base = load_llava(tmp_path / "hf")
    config = dataclasses.replace(config, lora=CONFIG.lora, dtype="float32")
    write_merged(tmp_path / "merged", config, base, role["lora"], None, {"path": "", "layout": "", "sha256": ""})
    info, merged = map_native(tmp_path / "merged")
    export(tmp_path / "out", "hf", info.config, merged, None)
    batch = make_batch(CONFIG)
    ours = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert_close_on_real(logits_of(ours, batch), logits_of(theirs, batch), batch)


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


LAYER = "base_model.model.model.layers.1"


@pytest.mark.parametrize(
    ("name", "shape", "found"),
    [
        (f"{LAYER}.mlp.up_proj.lora_B.weight", (41, 3), r"up_proj.lora_B.weight \[41, 3\] instead of \[40, 3\]"),
        (f"{LAYER}.self_attn.o_proj.lora_B.weight", (48,), r"o_proj.lora_B.weight \[48\] instead of \[48, 3\]"),
        (f"{LAYER}.self_attn.k_proj.lora_A.weight", (), r"k_proj.lora_A.weight \[\] instead of \[3, 48\]"),
        (f"{LAYER}.self_attn.q_proj.lora_A.weight", (4, 48), r"q_proj.lora_A.weight \[4, 48\] instead of \[3, 48\]"),
    ],
)
def test_an_adapter_of_odd_shapes_is_not_copied(name, shape, found, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "x")
    path = tmp_path / "x/adapter_model.safetensors"
    tensors = load_file(path)
    assert name in tensors
    save_file({**tensors, name: np.zeros(shape, np.float32)}, path)
    with pytest.raises(InputError, match=rf"adapter_model.safetensors: found 1 odd shapes: .*{found}; expected one"):
        export_adapter(tmp_path / "x", tmp_path / "y", "llava")
    assert not (tmp_path / "y").exists()


@pytest.mark.parametrize(("key", "value"), [("lora_alpha", None), ("lora_alpha", "16"), ("r", [3]), ("r", True)])
def test_an_adapter_without_rank_or_alpha_is_not_copied(key, value, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "x")
    path = tmp_path / "x/adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), key: value}))
    wanted = rf"adapter_config.json: found .*{key} {re.escape(repr(value))}.*; expected two numbers above 0"
    with pytest.raises(InputError, match=wanted):
        export_adapter(tmp_path / "x", tmp_path / "y", "llava")


@pytest.mark.parametrize("shape", [(2,), (), (1, 1)])
def test_a_head_with_another_bias_is_not_copied(shape, trained, tmp_path):
    shutil.copytree(trained[0], tmp_path / "x")
    path = tmp_path / "x/reward_head.safetensors"
    save_file({**load_file(path), "bias": np.zeros(shape, np.float32)}, path)
    with pytest.raises(InputError, match=r"reward_head.safetensors: found .*; expected weight \[1, d\] and bias \[1\]"):
        export_adapter(tmp_path / "x", tmp_path / "y", "llava")


def test_a_processor_that_came_along_goes_along(tmp_path):
    """Weights in transformers' layout come back with the pictures and words that they were asked with there."""
    folder = write_checkpoint(tmp_path / "llava", "legacy", "crop", seed=5)
    picture = pictures(tmp_path)[0]
    main(["convert", str(folder), str(tmp_path / "ours")])
    theirs = their_answer(*open_theirs(folder), picture, "What is in the picture?")
    for source in ("llava", "ours"):
        main(["export", str(tmp_path / source), str(tmp_path / f"{source}_back"), "--layout", "hf"])
        back = open_theirs(tmp_path / f"{source}_back")
        assert their_answer(*back, picture, "What is in the picture?") == theirs
