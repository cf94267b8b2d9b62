"""LLaVA checkpoints against transformers' own class: both compute alike what either of them wrote."""

import dataclasses
import json
import re
import shutil

import jax
import numpy as np
import pytest
import transformers
from random_llava import (
    CONFIG,
    LINEAR,
    OUTSIDE,
    assert_close_on_real,
    assert_same_tree,
    make_batch,
    our_logits,
    random_base,
    torch_llava,
    torch_logits,
)
from safetensors.numpy import load_file, save_file

from vlm_jax.checkpoints import tensor_files
from vlm_jax.checkpoints.hf_llava import check_preset, load_llava, save_llava
from vlm_jax.config import PRESETS, LoraConfig
from vlm_jax.errors import InputError


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory):
    """A random LLaVA as transformers writes it."""
    folder = tmp_path_factory.mktemp("torch") / "llava"
    torch_llava(CONFIG).save_pretrained(folder)
    return folder


def renamed(source, target, *rules: tuple[str, str]):
    """A copy of a checkpoint with tensor names changed."""
    shutil.copytree(source, target)
    tensors = load_file(target / "model.safetensors")
    for pattern, replacement in rules:
        tensors = {re.sub(pattern, replacement, name): tensor for name, tensor in tensors.items()}
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})
    return target


def test_a_file_of_transformers_gives_its_logits(torch_folder):
    config, base = load_llava(torch_folder)
    assert (config.vision, config.language, config.projector) == (CONFIG.vision, CONFIG.language, "mlp")
    assert config.lora == LoraConfig()
    batch = make_batch(config)
    assert_close_on_real(our_logits(config, base, batch), torch_logits(torch_folder, batch), batch)


@pytest.mark.parametrize("config", [CONFIG, LINEAR, OUTSIDE], ids=["mlp", "linear", "id-outside"])
def test_transformers_computes_our_file_alike(config, tmp_path):
    base, batch = random_base(config), make_batch(config)
    save_llava(tmp_path / "x", config, base, None)
    theirs = torch_logits(tmp_path / "x", batch)[..., : config.language.vocab_size]
    assert_close_on_real(our_logits(config, base, batch), theirs, batch)


@pytest.mark.parametrize("config", [CONFIG, LINEAR, OUTSIDE], ids=["mlp", "linear", "id-outside"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saving_and_loading_changes_no_bit(config, dtype, tmp_path):
    base = jax.tree.map(lambda leaf: leaf.astype(dtype), random_base(config))
    save_llava(tmp_path / "x", config, base, None, dtype)
    again, loaded = load_llava(tmp_path / "x")
    assert again == config
    assert_same_tree(base, loaded)


def test_large_checkpoints_are_sharded(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_files, "_SHARD_BYTES", 20_000)
    base = random_base(CONFIG)
    save_llava(tmp_path / "x", CONFIG, base, None)
    shards = sorted(path.name for path in (tmp_path / "x").glob("*.safetensors"))
    assert len(shards) > 3
    assert shards[0] == f"model-00001-of-{len(shards):05d}.safetensors"
    assert_same_tree(base, load_llava(tmp_path / "x")[1])
    monkeypatch.undo()
    save_llava(tmp_path / "whole", CONFIG, base, None)
    batch = make_batch(CONFIG)
    np.testing.assert_array_equal(torch_logits(tmp_path / "x", batch), torch_logits(tmp_path / "whole", batch))
    (tmp_path / "x" / shards[1]).unlink()
    with pytest.raises(InputError, match=f"{shards[1]}: found no such file"):
        load_llava(tmp_path / "x")


def test_three_generations_of_names_are_one(tmp_path):
    base = random_base(CONFIG)
    save_llava(tmp_path / "a", CONFIG, base, None)
    b = renamed(
        tmp_path / "a",
        tmp_path / "b",
        (r"^language_model\.lm_head", "lm_head"),
        (r"^language_model\.model\.", "model.language_model."),
        (r"^(multi_modal_projector|vision_tower)", r"model.\1"),
    )
    c = renamed(b, tmp_path / "c", (r"vision_tower\.vision_model", "vision_tower"))
    mixed = renamed(tmp_path / "a", tmp_path / "m", (r"vision_tower\.vision_model", "vision_tower"))
    for folder in (b, c, mixed):
        assert_same_tree(base, load_llava(folder)[1])


def test_old_buffers_are_ignored(tmp_path):
    save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)
    tensors = load_file(tmp_path / "x/model.safetensors")
    tensors["vision_tower.vision_model.embeddings.position_ids"] = np.arange(17)[None]
    tensors["language_model.model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, np.float32)
    save_file(tensors, tmp_path / "x/model.safetensors")
    load_llava(tmp_path / "x")


def test_missing_unknown_and_misshaped_tensors_come_in_one_message(tmp_path):
    save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)
    tensors = load_file(tmp_path / "x/model.safetensors")
    del tensors["language_model.model.layers.1.mlp.up_proj.weight"]
    tensors["language_model.model.layers.9.mlp.up_proj.weight"] = np.zeros((40, 48), np.float32)
    tensors["multi_modal_projector.linear_1.weight"] = np.zeros((36, 48), np.float32)
    save_file(tensors, tmp_path / "x/model.safetensors")
    with pytest.raises(InputError) as caught:
        load_llava(tmp_path / "x")
    assert "x/model.safetensors: found 1 missing: language_model.model.layers.1.mlp.up_proj.weight [40, 48]" in str(
        caught.value
    )
    assert "1 unknown: language_model.model.layers.9.mlp.up_proj.weight [40, 48]" in str(caught.value)
    assert "multi_modal_projector.linear_1.weight [36, 48] instead of [48, 36]" in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_missing_and_truncated_files_are_named(name, tmp_path):
    save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)
    path = tmp_path / "x" / name
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match=re.escape(str(path))):
        load_llava(tmp_path / "x")
    path.unlink()
    with pytest.raises(InputError, match="found no such file" if name == "config.json" else "x: found no weights"):
        load_llava(tmp_path / "x")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("", "vision_feature_select_strategy", "full"),
        ("", "projector_hidden_act", "relu"),
        ("", "vision_feature_layer", [-2, -5]),
        ("text_config", "model_type", "mistral"),
        ("text_config", "head_dim", 16),
        ("text_config", "rope_parameters", {"rope_type": "yarn", "factor": 2.0, "rope_theta": 1e4}),
        ("vision_config", "hidden_act", "gelu"),
        ("", "vision_feature_layer", True),
        ("", "image_token_index", -5),
        ("", "image_token_index", None),
        ("", "image_token_index", "60"),
        ("", "eos_token_id", [2, "3"]),
        ("", "pad_token_id", "0"),
        ("text_config", "rope_parameters", "x"),
        ("text_config", "rope_parameters", {"rope_type": "default", "rope_theta": None}),
        ("text_config", "rope_parameters", {"rope_theta": "x"}),
        ("text_config", "rope_scaling", [1]),
        ("", "vlm_jax", "x"),
        ("vlm_jax", "vocab_size", "61"),
        ("vlm_jax", "vocab_size", True),
        ("vlm_jax", "template", "nope"),
        ("vlm_jax", "aspect", "anyres"),
        ("vlm_jax", "dtype", ["float32"]),
        ("vlm_jax", "remat", None),
        ("vlm_jax", "image_ends", [1]),
        ("vlm_jax", "image_ends", [59, 61]),
        ("vlm_jax", "lora", 3),
        ("vlm_jax", "lora", {"foo": 1}),
        ("vlm_jax", "lora", {"rank": [3]}),
    ],
)
def test_other_arithmetic_is_refused(part, key, value, tmp_path):
    save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)
    raw = json.loads((tmp_path / "x/config.json").read_text())
    (raw[part] if part else raw)[key] = value
    (tmp_path / "x/config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"config\.json: found .*" + ("rope" if "rope" in key else key)):
        load_llava(tmp_path / "x")


@pytest.mark.parametrize(
    ("part", "key", "value", "found"),
    [
        ("", "vision_feature_layer", -5, "vision feature layer -5 of 3 layers"),
        ("", "vision_feature_layer", 4, "vision feature layer 4 of 3 layers"),
        ("vision_config", "image_size", 30, "image_size 30 in patches of patch_size 7"),
    ],
)
def test_towers_that_are_not_computed(part, key, value, found, tmp_path):
    save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)
    raw = json.loads((tmp_path / "x/config.json").read_text())
    (raw[part] if part else raw)[key] = value
    (tmp_path / "x/config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=rf"config\.json: found {found};"):
        load_llava(tmp_path / "x")


@pytest.mark.parametrize(("ids", "one"), [([7], 7), ([7, 61], 7)])
def test_several_end_tokens_of_which_one_has_a_row(ids, one, tmp_path):
    save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)
    raw = json.loads((tmp_path / "x/config.json").read_text())
    (tmp_path / "x/config.json").write_text(json.dumps({**raw, "eos_token_id": ids}))
    assert load_llava(tmp_path / "x")[0].eos_token_id == one


@pytest.mark.parametrize(
    ("text", "found"),
    [('{"a":' * 100_000, "JSON in too many levels"), (f'{{"a": {"9" * 5000}}}', "a number of more than 4300 digits")],
)
def test_json_that_python_does_not_read(text, found, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=rf"config\.json: found {found}; expected a JSON object"):
        load_llava(tmp_path)


def test_a_second_projector_matrix_is_not_dropped(tmp_path):
    save_llava(tmp_path / "x", LINEAR, random_base(LINEAR), None)
    tensors = load_file(tmp_path / "x/model.safetensors")
    tensors["multi_modal_projector.linear_2.weight"][0, 1] = 0.5
    save_file(tensors, tmp_path / "x/model.safetensors")
    with pytest.raises(InputError, match="not the identity"):
        load_llava(tmp_path / "x")


def test_a_save_that_breaks_off_leaves_nothing(tmp_path, monkeypatch):
    def full_disk(*args, **kwargs):
        raise OSError("no space left on device")

    monkeypatch.setattr(tensor_files, "save_file", full_disk)
    with pytest.raises(OSError, match="no space"):
        save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_overwritten(tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match="exists already"):
        save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)


def test_presets_are_told_apart(tmp_path):
    check_preset(PRESETS["llava-1.5-7b"], "llava-1.5-7b", tmp_path)
    # llava-hf pads the vocabulary and names another pad id; the model is the same.
    hub = dataclasses.replace(
        PRESETS["llava-1.5-7b"],
        pad_token_id=32001,
        language=dataclasses.replace(PRESETS["llava-1.5-7b"].language, vocab_size=32064),
    )
    check_preset(hub, "llava-1.5-7b", tmp_path)
    with pytest.raises(InputError, match=r"vision\.image_size 336 instead of 224.*projector mlp instead of linear"):
        check_preset(hub, "llava-rlhf-7b", tmp_path)


def test_transformers_reads_our_processor(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    words = {"<unk>": 0, "<s>": 1, "</s>": 2, "a": 4, "b": 5, "<image>": 60}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<unk>")
    fast.add_special_tokens({"additional_special_tokens": ["<image>"]})
    fast.save_pretrained(tmp_path / "tokenizer")
    save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), tmp_path / "tokenizer")
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "x")
    image = np.full((20, 40, 3), 255, np.uint8)
    read = processor(text="<image> a b", images=image, return_tensors="np")
    assert read["input_ids"].tolist() == [[60] * CONFIG.vision.patches + [4, 5]]
    assert read["pixel_values"].shape == (1, 3, 28, 28)
    # The padding has the mean colour, which normalises to about nothing.
    assert np.abs(read["pixel_values"][0, :, 0]).max() < 0.02
    square = dataclasses.replace(CONFIG, aspect="square")
    save_llava(tmp_path / "square", square, random_base(CONFIG), tmp_path / "tokenizer")
    middle = np.zeros((28, 84, 3), np.uint8)
    middle[:, 28:56] = 255
    read = transformers.AutoProcessor.from_pretrained(tmp_path / "square")(
        text="<image> a", images=middle, return_tensors="np"
    )
    assert read["pixel_values"].shape == (1, 3, 28, 28)
    assert read["pixel_values"].min() > 1.5
    with pytest.raises(InputError, match="no tokenizer"):
        save_llava(tmp_path / "y", CONFIG, random_base(CONFIG), tmp_path)
