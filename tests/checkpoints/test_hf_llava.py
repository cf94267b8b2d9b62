"""LLaVA checkpoints against transformers' own class: both compute alike what either of them wrote."""

import dataclasses
import json
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from vlm_jax.arrays import Batch
from vlm_jax.checkpoints import tensor_files
from vlm_jax.checkpoints.hf_llava import check_preset, load_llava, save_llava
from vlm_jax.config import PRESETS, LanguageConfig, LlavaConfig, LoraConfig, VisionConfig
from vlm_jax.errors import InputError
from vlm_jax.models.clip import normalise
from vlm_jax.models.llava import forward, init_llava, logits

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

CONFIG = LlavaConfig(
    vision=VisionConfig(image_size=28, patch_size=7, width=36, layers=3, heads=3, mlp_width=50),
    language=LanguageConfig(
        vocab_size=61,
        width=48,
        layers=3,
        heads=6,
        kv_heads=2,
        mlp_width=40,
        rope_theta=5000.0,
        max_positions=64,
    ),
    lora=LoraConfig(rank=3, alpha=6.0),
    image_token_id=60,
    dtype="float32",
    remat="none",
)
LINEAR = dataclasses.replace(CONFIG, projector="linear")
# As in LLaVA-RLHF: the image id lies beyond the table.
OUTSIDE = dataclasses.replace(LINEAR, image_token_id=61)


def random_base(config: LlavaConfig):
    """Weights large enough that every one of them shows in the logits."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: init_llava(config, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(
        lambda path, leaf: (0.15 * rng.standard_normal(leaf.shape) + (path[-1].key == "scale")).astype(np.float32),
        shapes,
    )


@pytest.fixture(scope="module")
def torch_folder(tmp_path_factory):
    """A random LLaVA as transformers writes it."""
    torch.manual_seed(0)
    vision, language = CONFIG.vision, CONFIG.language
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            hidden_size=vision.width,
            num_hidden_layers=vision.layers,
            num_attention_heads=vision.heads,
            intermediate_size=vision.mlp_width,
        ),
        text_config=transformers.LlamaConfig(
            vocab_size=language.vocab_size,
            hidden_size=language.width,
            num_hidden_layers=language.layers,
            num_attention_heads=language.heads,
            num_key_value_heads=language.kv_heads,
            intermediate_size=language.mlp_width,
            rms_norm_eps=language.norm_eps,
            max_position_embeddings=language.max_positions,
            rope_parameters={"rope_type": "default", "rope_theta": language.rope_theta},
        ),
        image_token_index=CONFIG.image_token_id,
    )
    model = transformers.LlavaForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.15 * torch.randn_like(weight))
    folder = tmp_path_factory.mktemp("torch") / "llava"
    model.save_pretrained(folder)
    return folder


def make_batch(config: LlavaConfig) -> Batch:
    """A row with an image, a left-padded row with an image, and a row of text alone."""
    rng, patches, length = np.random.default_rng(0), config.vision.patches, 26
    tokens = rng.integers(4, 60, (3, length))
    image_mask, attention_mask = np.zeros((2, 3, length), bool)
    attention_mask[:] = True
    attention_mask[1, :5] = False
    image_mask[0, 2 : 2 + patches] = image_mask[1, 7 : 7 + patches] = True
    tokens[image_mask], tokens[~attention_mask] = config.image_token_id, 0
    side = config.vision.image_size
    images = rng.integers(0, 256, (3, side, side, 3)).astype(np.uint8)
    images[2] = 0
    return Batch(
        tokens=jnp.array(tokens, jnp.int32),
        attention_mask=jnp.array(attention_mask),
        image_mask=jnp.array(image_mask),
        loss_mask=jnp.array(attention_mask),
        images=jnp.array(images),
    )


def our_logits(config: LlavaConfig, base, batch: Batch) -> np.ndarray:
    config = dataclasses.replace(config, dtype="float32")
    run = jax.jit(lambda base, batch: logits(config, base, forward(config, base, None, batch).hidden))
    return np.asarray(run(base, batch))


def torch_logits(folder, batch: Batch) -> np.ndarray:
    model = transformers.LlavaForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    images = np.array(normalise(batch.images, jnp.dtype("float32")))[np.asarray(batch.image_mask.any(1))]
    with torch.no_grad():
        out = model(
            input_ids=torch.tensor(np.array(batch.tokens)).long(),
            attention_mask=torch.tensor(np.array(batch.attention_mask)).long(),
            pixel_values=torch.tensor(images).permute(0, 3, 1, 2),
        )
    return out.logits.numpy()


def assert_close_on_real(ours: np.ndarray, theirs: np.ndarray, batch: Batch) -> None:
    real = np.asarray(batch.attention_mask)
    assert np.abs(theirs[real]).max() > 1
    np.testing.assert_allclose(ours[real], theirs[real], atol=1e-4, rtol=0)


def assert_same_tree(left, right) -> None:
    assert jax.tree.structure(left) == jax.tree.structure(right)
    for one, other in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


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
    with pytest.raises(InputError, match=f"{re.escape(str(path))}: found no such file"):
        load_llava(tmp_path / "x")


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("", "vision_feature_select_strategy", "full"),
        ("", "projector_hidden_act", "relu"),
        ("", "vision_feature_layer", [-2, -5]),
        ("text_config", "model_type", "mistral"),
        ("text_config", "head_dim", 16),
        ("text_config", "rope_parameters", {"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4}),
        ("vision_config", "hidden_act", "gelu"),
    ],
)
def test_other_arithmetic_is_refused(part, key, value, tmp_path):
    save_llava(tmp_path / "x", CONFIG, random_base(CONFIG), None)
    raw = json.loads((tmp_path / "x/config.json").read_text())
    (raw[part] if part else raw)[key] = value
    (tmp_path / "x/config.json").write_text(json.dumps(raw))
    with pytest.raises(InputError, match=r"config\.json: found .*" + ("rope" if "rope" in key else key)):
        load_llava(tmp_path / "x")


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
    with pytest.raises(InputError, match="no tokenizer"):
        save_llava(tmp_path / "y", CONFIG, random_base(CONFIG), tmp_path)
