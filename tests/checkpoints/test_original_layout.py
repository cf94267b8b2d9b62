"""The original layout's oddities: token tables, tokens around images, towers, configs."""

import dataclasses
import json
import re

import numpy as np
import pytest
import torch
import transformers
from original_llava import assert_logits_agree, loaded, original_config, original_tensors, write_tower
from random_llava import (
    CONFIG,
    random_base,
    torch_llava,
)
from safetensors.numpy import load_file, save_file

from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.export import export
from vlm_jax.checkpoints.hf_llava import load_llava, save_llava
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.data.conversation import Piece
from vlm_jax.data.encoding import encode_pieces
from vlm_jax.errors import InputError
from vlm_jax.files import read_json


def original_with_ends(folder, model):
    """An original checkpoint with tokens around the image, and the CLIP and the projector file that go with it."""
    (folder / "original").mkdir()
    tensors = original_tensors(model, CONFIG)
    torch.save(tensors, folder / "original/pytorch_model.bin")
    (folder / "original/config.json").write_text(json.dumps(original_config(CONFIG, mm_use_im_start_end=True)))
    (folder / "original/added_tokens.json").write_text(json.dumps({"<im_start>": 59, "<im_end>": 60}))
    write_tower(folder / "clip", model, "")
    return tensors, {name: tensor for name, tensor in tensors.items() if "mm_projector" in name}


@pytest.mark.parametrize("rows", [2, 61])
def test_a_projector_file_brings_the_rows_of_new_tokens(rows, tmp_path):
    """LLaVA ``initialize_vision_tokenizer`` takes the last two rows, of two or of a whole table."""
    tensors, projector = original_with_ends(tmp_path, torch_llava(CONFIG))
    new = torch.arange(rows * CONFIG.language.width, dtype=torch.float32).reshape(rows, -1)
    torch.save({**projector, "model.embed_tokens.weight": new}, tmp_path / "mm_projector.bin")

    def opened():
        return open_source(tmp_path / "original", vision=tmp_path / "clip", projector=tmp_path / "mm_projector.bin")

    convert(opened(), tmp_path / "ours", None)
    table = np.asarray(loaded(tmp_path / "ours")[1]["language"]["embedding"])
    np.testing.assert_array_equal(table[:-2], tensors["model.embed_tokens.weight"].numpy()[:-2])
    np.testing.assert_array_equal(table[-2:], new.numpy()[-2:])
    # Rows of words, which are no new tokens.
    (tmp_path / "original/added_tokens.json").write_text(json.dumps({"<im_start>": 58, "<im_end>": 59}))
    with pytest.raises(InputError, match=r"mm_projector.bin: found .* over ids \[58, 59\] in a table of 61 rows in"):
        opened()
    (tmp_path / "original/config.json").write_text(json.dumps(original_config(CONFIG)))
    with pytest.raises(InputError, match=r"mm_projector.bin: found .* over no mm_use_im_start_end in a table"):
        opened()


def test_a_projector_file_with_too_few_rows(tmp_path):
    tensors, projector = original_with_ends(tmp_path, torch_llava(CONFIG))
    one = tensors["model.embed_tokens.weight"][:1].clone()
    torch.save({**projector, "model.embed_tokens.weight": one}, tmp_path / "mm_projector.bin")
    with pytest.raises(InputError, match=r"mm_projector.bin: found model.embed_tokens.weight \[1, .*expected two rows"):
        open_source(tmp_path / "original", vision=tmp_path / "clip", projector=tmp_path / "mm_projector.bin")


def test_tables_that_were_trained_beside_an_adapter_are_taken_whole(tmp_path):
    """LLaVA ``load_pretrained_model`` loads ``non_lora_trainables.bin`` over the model, table by table."""
    _, projector = original_with_ends(tmp_path, torch_llava(CONFIG))
    trained = {name: torch.randn(61, 48) for name in ("model.embed_tokens.weight", "lm_head.weight")}
    beside = {f"base_model.model.{name}": tensor for name, tensor in {**projector, **trained}.items()}
    torch.save(beside, tmp_path / "non_lora_trainables.bin")
    path = tmp_path / "non_lora_trainables.bin"
    convert(open_source(tmp_path / "original", vision=tmp_path / "clip", projector=path), tmp_path / "ours", None)
    language = loaded(tmp_path / "ours")[1]["language"]
    np.testing.assert_array_equal(language["embedding"], trained["model.embed_tokens.weight"])
    np.testing.assert_array_equal(np.asarray(language["head"]["kernel"]).T, trained["lm_head.weight"])


def test_a_tower_that_is_not_the_named_one(tmp_path):
    (tmp_path / "original").mkdir()
    model = torch_llava(CONFIG)
    torch.save(original_tensors(model, CONFIG), tmp_path / "original/pytorch_model.bin")
    write_tower(tmp_path / "clip", model, "")
    named = original_config(CONFIG, mm_vision_tower="openai/clip-vit-large-patch14-336/")
    (tmp_path / "original/config.json").write_text(json.dumps(named))
    wanted = "expected the tower openai/clip-vit-large-patch14-336/ that the model names"
    with pytest.raises(InputError, match=f"clip/config.json: found image_size 28 instead of 336; .*{wanted}"):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


@pytest.mark.parametrize("section", [None, [], "x"])
def test_a_tower_without_a_config(section, tmp_path):
    original_with_ends(tmp_path, torch_llava(CONFIG))
    (tmp_path / "clip/config.json").write_text(json.dumps({"vision_config": section}))
    with pytest.raises(InputError, match=re.escape(f"found vision_config {section!r}; expected a CLIP")):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


def test_a_tower_inside_goes_before_one_beside(tmp_path):
    model, other = torch_llava(CONFIG), torch_llava(CONFIG)
    with torch.no_grad():
        for weight in other.model.vision_tower.parameters():
            weight.add_(1.0)
    folder = tmp_path / "original"
    folder.mkdir()
    torch.save(original_tensors(model, CONFIG), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG)))
    write_tower(tmp_path / "clip", other, "")
    convert(open_source(folder, vision=tmp_path / "clip"), tmp_path / "ours", None)
    ours, base = loaded(tmp_path / "ours")
    assert_logits_agree(dataclasses.replace(ours, image_token_id=CONFIG.image_token_id), base, model)


def test_a_table_that_was_resized_elsewhere_keeps_its_rows(tmp_path):
    """transformers keeps keys of a config that it does not know, ours among them."""
    outside = dataclasses.replace(CONFIG, image_token_id=61)
    save_llava(tmp_path / "one", outside, random_base(outside), None)
    model = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "one", dtype=torch.float32)
    model.resize_token_embeddings(70)
    model.save_pretrained(tmp_path / "two")
    assert json.loads((tmp_path / "two/config.json").read_text())["vlm_jax"]["vocab_size"] == 61
    config, base = load_llava(tmp_path / "two")
    assert config.language.vocab_size == 70
    np.testing.assert_array_equal(base["language"]["embedding"], model.get_input_embeddings().weight.detach().numpy())


@pytest.mark.parametrize("table", ["language_model.model.embed_tokens.weight", "language_model.lm_head.weight"])
def test_padding_that_was_trained_elsewhere_is_kept(table, tmp_path):
    outside = dataclasses.replace(CONFIG, image_token_id=61)
    save_llava(tmp_path / "hf", outside, random_base(outside), None)
    assert load_llava(tmp_path / "hf")[0].language.vocab_size == 61
    tensors = load_file(tmp_path / "hf/model.safetensors")
    tensors[table][63, 5] += 1
    save_file(tensors, tmp_path / "hf/model.safetensors")
    config, base = load_llava(tmp_path / "hf")
    assert (config.language.vocab_size, config.image_token_id) == (64, 61)
    ours = {"embed_tokens": base["language"]["embedding"], "lm_head": base["language"]["head"]["kernel"].T}
    np.testing.assert_array_equal(ours[table.split(".")[-2]], tensors[table])


def test_rows_of_tokens_around_the_image_are_never_padding(tmp_path):
    """A table of 64 rows, the image's id 58 and those around it 59 and 60."""
    config = dataclasses.replace(
        CONFIG,
        language=dataclasses.replace(CONFIG.language, vocab_size=64),
        image_token_id=58,
        image_ends=(59, 60),
    )
    base = random_base(config)
    export(tmp_path / "original", "llava", config, base, None, vision_tower="somewhere/clip")
    table = load_file(tmp_path / "original/model.safetensors")["model.embed_tokens.weight"]
    np.testing.assert_array_equal(table, base["language"]["embedding"][:61])
    assert read_json(tmp_path / "original/config.json")["mm_use_im_patch_token"] is True


@pytest.mark.parametrize(
    "added",
    [
        {"<im_start>": 60, "<im_end>": 61},
        {"<im_start>": "59", "<im_end>": 60},
        {"<im_start>": -1, "<im_end>": 60},
        {"<im_start>": 59, "<im_end>": 60, "<im_patch>": 62},
    ],
)
def test_added_ids_beyond_the_table_are_refused(added, tmp_path):
    original_with_ends(tmp_path, torch_llava(CONFIG))
    open_source(tmp_path / "original", vision=tmp_path / "clip")
    (tmp_path / "original/added_tokens.json").write_text(json.dumps(added))
    with pytest.raises(InputError, match=r"in added_tokens.json; expected ids of a table of 61 rows"):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


class NoWords:
    def tokenize(self, text):
        return [text]

    def __call__(self, texts, **_):
        return {"input_ids": []}


def test_tokens_around_the_image(tmp_path):
    folder = tmp_path / "v0"
    folder.mkdir()
    model = torch_llava(CONFIG)
    torch.save(original_tensors(model, CONFIG), folder / "pytorch_model.bin")
    (folder / "config.json").write_text(json.dumps(original_config(CONFIG, mm_use_im_start_end=True)))
    write_tower(tmp_path / "clip", model, "")
    with pytest.raises(InputError, match=r"mm_use_im_start_end without <im_start> and <im_end>"):
        open_source(folder, vision=tmp_path / "clip")
    added = {"<im_patch>": 58, "<im_start>": 59, "<im_end>": 60}
    (folder / "added_tokens.json").write_text(json.dumps(added))
    convert(open_source(folder, vision=tmp_path / "clip"), tmp_path / "ours", None)
    config, base = loaded(tmp_path / "ours")
    assert (config.image_token_id, config.image_ends) == (58, (59, 60))
    pieces = [Piece("<image>", False, "image")]
    encoded = encode_pieces(NoWords(), pieces, config)
    assert encoded.tokens.tolist() == [1, 59, *[58] * 16, 60]
    assert encoded.image_mask.tolist() == [False, False, *[True] * 16, False]
    export(tmp_path / "again", "llava", config, base, None, vision_tower="somewhere/clip")
    assert json.loads((tmp_path / "again/config.json").read_text())["mm_use_im_start_end"] is True


@pytest.mark.parametrize(("key", "value"), [("hidden_size", "48"), ("vocab_size", None), ("num_attention_heads", 0)])
def test_numbers_that_are_none(key, value, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**original_config(CONFIG), key: value}))
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    write_tower(tmp_path / "clip", torch_llava(CONFIG), "")
    with pytest.raises(InputError, match=f"found {key} {value!r}"):
        open_source(tmp_path, vision=tmp_path / "clip")


@pytest.mark.parametrize(
    ("key", "value"),
    [("eos_token_id", [2, None]), ("rope_theta", None), ("rope_theta", "x"), ("rope_scaling", "linear")],
)
def test_an_original_config_that_is_not_computed(key, value, tmp_path):
    original_with_ends(tmp_path, torch_llava(CONFIG))
    path = tmp_path / "original/config.json"
    path.write_text(json.dumps({**read_json(path), key: value}))
    with pytest.raises(InputError, match=rf"config\.json: found {key} {re.escape(repr(value))}"):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


def test_a_layer_that_the_named_tower_has_not(tmp_path):
    named = original_config(CONFIG, mm_vision_tower="openai/clip-vit-large-patch14", mm_vision_select_layer=-26)
    (tmp_path / "config.json").write_text(json.dumps(named))
    save_file({"x": np.zeros(1, np.float32)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"config\.json: found vision feature layer -26 of 24 layers"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("said", "aspect"),
    [({"image_aspect_ratio": "pad"}, "pad"), ({"image_aspect_ratio": "square"}, "square"), ({}, "square")],
)
def test_how_images_are_made_square_stays_with_the_weights(said, aspect, tmp_path):
    """Where a config says nothing, LLaVA leaves images to CLIP's processor, which crops."""
    original_with_ends(tmp_path, torch_llava(CONFIG))
    path = tmp_path / "original/config.json"
    path.write_text(json.dumps({**read_json(path), **said}))
    convert(open_source(tmp_path / "original", vision=tmp_path / "clip"), tmp_path / "ours", None)
    config, base = loaded(tmp_path / "ours")
    assert config.aspect == aspect
    export(tmp_path / "again", "llava", config, base, None, vision_tower="somewhere/clip")
    assert read_json(tmp_path / "again/config.json")["image_aspect_ratio"] == aspect
    save_llava(tmp_path / "hf", config, base, None)
    assert load_llava(tmp_path / "hf")[0].aspect == aspect
    assert read_json(tmp_path / "hf/preprocessor_config.json")["do_pad"] is (aspect == "pad")


def test_images_in_several_parts_are_not_computed(tmp_path):
    original_with_ends(tmp_path, torch_llava(CONFIG))
    path = tmp_path / "original/config.json"
    path.write_text(json.dumps({**read_json(path), "image_aspect_ratio": "anyres"}))
    with pytest.raises(InputError, match=r"config\.json: found image_aspect_ratio 'anyres' instead of pad or square; "):
        open_source(tmp_path / "original", vision=tmp_path / "clip")


def test_another_kind_of_model_is_named_before_files_that_it_lacks(tmp_path):
    """Nobody should fetch a SigLIP only to hear that a Qwen is not read."""
    other = {"model_type": "llava_qwen", "mm_vision_tower": "siglip-so400m", "image_aspect_ratio": "anyres_max_9"}
    (tmp_path / "config.json").write_text(json.dumps(original_config(CONFIG, **other)))
    found = "model_type 'llava_qwen' instead of .*; image_aspect_ratio 'anyres_max_9' .*; expected an original LLaVA up"
    with pytest.raises(InputError, match=rf"config\.json: found {found} to 1\.5"):
        open_source(tmp_path)
