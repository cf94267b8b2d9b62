"""Ids of special tokens are the tokenizer's, whatever the files beside it say."""

import dataclasses
import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
import transformers
from original_llava import loaded, original_config, original_tensors, write_tower
from PIL import Image
from random_llava import CONFIG, random_base, torch_llava
from small_tokenizer import llama_2_tokenizer, write_llama_tokenizer, write_tokenizer

from vlm_jax.checkpoints.convert import convert
from vlm_jax.checkpoints.hf_llava import load_llava, save_llava
from vlm_jax.checkpoints.native import CONFIG_FILE, open_native
from vlm_jax.checkpoints.opening import open_model
from vlm_jax.checkpoints.sources import open_source
from vlm_jax.checkpoints.special_ids import settle
from vlm_jax.commands import convert as convert_command
from vlm_jax.data.tokenizers import load_tokenizer
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, write_json
from vlm_jax.train.losses import token_log_probs

EARLY = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": -1}
RIGHT = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def ids_of(config):
    return config.bos_token_id, config.eos_token_id, config.pad_token_id


def hf_folder(folder, ids, generation=None, **tokenizer):
    """A checkpoint in transformers' layout whose files say these ids."""
    save_llava(folder, CONFIG, random_base(CONFIG), None)
    raw = read_json(folder / "config.json")
    write_json(folder / "config.json", {**raw, **ids, "text_config": {**raw["text_config"], **ids}})
    write_json(folder / "generation_config.json", ids if generation is None else generation)
    write_llama_tokenizer(folder, **tokenizer)
    return folder


def test_early_ids_in_transformers_layout(tmp_path, capsys):
    model = open_model(str(hf_folder(tmp_path / "x", EARLY)))
    assert ids_of(model.config) == (1, 2, 0)
    assert model.config.end_token_ids == ()
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "bos_token_id 0 in config.json and generation_config.json, eos_token_id 1 in" in error
    assert "by the tokenizer it is bos_token_id 1, eos_token_id 2, pad_token_id 0" in error


def test_right_ids_are_not_spoken_of(tmp_path, capsys):
    model = open_model(str(hf_folder(tmp_path / "x", RIGHT)))
    assert ids_of(model.config) == (1, 2, 0)
    assert capsys.readouterr().err == ""


def test_generation_config_alone_is_wrong(tmp_path):
    source = open_source(hf_folder(tmp_path / "x", RIGHT, generation=EARLY))
    assert ids_of(source.config) == (1, 2, 0)
    (remark,) = source.remarks
    assert "bos_token_id 0 in generation_config.json, eos_token_id 1 in generation_config.json" in remark


@pytest.mark.parametrize("said", [EARLY, RIGHT])
def test_the_original_layout(said, tmp_path, capsys):
    folder, model = tmp_path / "original", torch_llava(CONFIG)
    folder.mkdir()
    torch.save(original_tensors(model, CONFIG), folder / "pytorch_model.bin")
    write_json(folder / "config.json", original_config(CONFIG, **said))
    write_tower(tmp_path / "clip", model, "")
    write_llama_tokenizer(folder)
    convert_command.run(convert_command.Options(folder, tmp_path / "ours", vision=tmp_path / "clip"))
    assert capsys.readouterr().out.count("note: bos_token_id 0 in config.json") == (said is EARLY)
    assert ids_of(loaded(tmp_path / "ours")[0]) == (1, 2, 0)


def test_what_was_converted_with_wrong_ids_opens_with_right_ones(tmp_path):
    convert(open_source(hf_folder(tmp_path / "x", RIGHT)), tmp_path / "ours", tmp_path / "x")
    path = tmp_path / "ours" / CONFIG_FILE
    raw = read_json(path)
    write_json(path, {**raw, "config": {**raw["config"], **EARLY}})
    config, _, (remark,) = open_native(tmp_path / "ours")
    assert ids_of(config) == (1, 2, 0)
    assert "eos_token_id [1] in vlm_jax.json" in remark


def test_a_tokenizer_of_other_ids(tmp_path):
    tokenizer = load_tokenizer(
        write_tokenizer(
            tmp_path / "x",
            controls=("<unk>", "<pad>", "<begin>", "<end>"),
            bos_token="<begin>",
            eos_token="<end>",
            pad_token="<pad>",
        )
    )
    config, remarks = settle(CONFIG, {"config.json": RIGHT}, tokenizer, tmp_path)
    assert ids_of(config) == (2, 3, 1)
    assert len(remarks) == 1


def test_a_config_of_empty_special_tokens(tmp_path):
    """The first conversions' tokenizer_config.json; the tokenizer still knows its own."""
    tokenizer = load_tokenizer(write_tokenizer(tmp_path / "x", unk_token="<unk>"))
    assert tokenizer.eos_token is None
    config, _ = settle(CONFIG, {"config.json": EARLY}, tokenizer, tmp_path)
    assert ids_of(config) == (1, 2, 0)


@pytest.mark.parametrize(
    ("ends", "further"),
    [([2, 4], (4,)), (4, (4,)), ([2], ()), ([2, 3], (3,)), ([2, 1, 0], ()), ([2, 5], ()), ([2, 4, 61], (4,))],
    ids=str,
)
def test_lists_of_ends(ends, further, tmp_path):
    """A chat's end counts beside the tokenizer's; a beginning, padding, a word and an id without a row do not."""
    controls = ("<unk>", "<s>", "</s>", "<pad>", "<turn>")
    tokenizer = load_tokenizer(write_llama_tokenizer(tmp_path / "x", controls=controls, pad_token="<pad>"))
    config, _ = settle(CONFIG, {"config.json": {**RIGHT, "eos_token_id": ends}}, tokenizer, tmp_path)
    assert (config.eos_token_id, config.end_token_ids) == (2, further)


def test_lists_of_ends_come_back(tmp_path):
    config = dataclasses.replace(CONFIG, eos_token_id=5, end_token_ids=(7, 9))
    save_llava(tmp_path / "x", config, random_base(config), None)
    assert read_json(tmp_path / "x/generation_config.json")["eos_token_id"] == [5, 7, 9]
    assert load_llava(tmp_path / "x")[0] == config
    convert(open_source(tmp_path / "x"), tmp_path / "ours", None)
    assert loaded(tmp_path / "ours")[0] == config


@pytest.mark.parametrize("pad", [61, 32001, -1])
@pytest.mark.parametrize("with_tokenizer", [True, False])
def test_padding_without_a_row(pad, with_tokenizer, tmp_path):
    """As in llava-hf, whose 32001 has none once the padding of its tables is gone."""
    special = {"beyond": {"<pad>": pad}.items(), "pad_token": "<pad>"} if pad > 0 else {}
    folder = hf_folder(tmp_path / "x", {**RIGHT, "pad_token_id": pad}, **special)
    if not with_tokenizer:
        for path in folder.glob("tokenizer*"):
            path.unlink()
    config, base = load_llava(folder)
    assert ids_of(config) == (1, 2, 0)
    hidden = jnp.ones((1, 3, CONFIG.language.width))
    targets = jnp.full((1, 3), config.pad_token_id, jnp.int32)
    log_probs, _ = token_log_probs(dataclasses.replace(config, dtype="float32"), base, hidden, targets)
    assert np.isfinite(log_probs).all()


def test_padding_is_no_word(tmp_path):
    """It is what stands behind an answer, and has to be read as nothing."""
    controls = ("!", "<begin>", "<end>")
    tokenizer = load_tokenizer(
        write_tokenizer(tmp_path / "x", ("<begin>", "<end>"), ("!", "a"), bos_token="<begin>", eos_token="<end>")
    )
    config, _ = settle(CONFIG, {"config.json": {"bos_token_id": 0, "eos_token_id": 1}}, tokenizer, tmp_path)
    assert ids_of(config) == (0, 1, 0)
    tokenizer = load_tokenizer(
        write_tokenizer(tmp_path / "y", controls[1:], ("a",), eos_token="<end>", bos_token="<begin>")
    )
    said = {"config.json": {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}}
    assert ids_of(settle(CONFIG, said, tokenizer, tmp_path)[0]) == (0, 1, 0)


def test_what_cannot_be_settled(tmp_path):
    one = load_tokenizer(write_llama_tokenizer(tmp_path / "x", controls=("<unk>", "<s>"), beyond={"</s>": 61}.items()))
    with pytest.raises(InputError, match=r"x: found the tokenizer's eos_token_id 61; expected an id of a table of 61"):
        settle(CONFIG, {"config.json": RIGHT}, one, tmp_path / "x")
    with pytest.raises(InputError, match=r"found bos_token_id -1; expected an id of a table of 61 rows"):
        settle(CONFIG, {"config.json": {**RIGHT, "bos_token_id": -1}}, None, tmp_path)
    longer = load_tokenizer(write_llama_tokenizer(tmp_path / "y", words=[f"w{i}" for i in range(60)]))
    with pytest.raises(InputError, match=r"y: found 2 words of the tokenizer without a row: 'w58' 61, 'w59' 62; exp"):
        settle(CONFIG, {"config.json": RIGHT}, longer, tmp_path / "y")
    # The image's place is filled before anybody looks it up.
    image = dataclasses.replace(CONFIG, image_token_id=61)
    with pytest.raises(InputError, match=r"found 1 words of the tokenizer without a row: 'w59' 62; exp"):
        settle(image, {"config.json": RIGHT}, longer, tmp_path / "y")


def test_a_tokenizer_that_cannot_be_read_stops_before_the_weights(tmp_path):
    folder = hf_folder(tmp_path / "x", RIGHT)
    (folder / "tokenizer.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"")
    with pytest.raises(InputError, match="no tokenizer that can be read"):
        convert_command.run(convert_command.Options(folder, tmp_path / "ours"))


@pytest.mark.parametrize("value", ["2", [], [2, "3"], True, 2.0])
def test_ids_that_are_none(value, tmp_path):
    folder = hf_folder(tmp_path / "x", RIGHT, generation={"eos_token_id": value})
    with pytest.raises(InputError, match=r"generation_config\.json: found eos_token_id "):
        open_source(folder)
    (folder / "generation_config.json").write_text(json.dumps({}))
    open_source(folder)


@pytest.mark.parametrize("stated", [3, 5])
def test_the_images_id_is_the_tokenizers(stated, tmp_path, capsys):
    """Ours reads the checkpoint either way; transformers' model looks for the image where its processor put it."""
    llama_2_tokenizer().save_pretrained(tmp_path / "words")
    language = dataclasses.replace(CONFIG.language, vocab_size=400)
    config = dataclasses.replace(CONFIG, language=language, image_token_id=stated)
    save_llava(tmp_path / "hf", config, random_base(config), tmp_path / "words")
    capsys.readouterr()
    assert open_model(str(tmp_path / "hf")).config.image_token_id == stated
    said = capsys.readouterr().err
    processor = transformers.AutoProcessor.from_pretrained(tmp_path / "hf")
    batch = processor(text="<image>\nhi", images=Image.new("RGB", (28, 28)), return_tensors="pt")
    theirs = transformers.LlavaForConditionalGeneration.from_pretrained(tmp_path / "hf")
    if stated == 3:
        theirs(**batch)
        assert said == ""
        return
    with pytest.raises(ValueError, match="Image features and image tokens do not match"):
        theirs(**batch)
    (line,) = said.splitlines()
    assert "the image's id is 5 by the config, and 3 by the tokenizer (<image>): here it only marks positions, " in line
