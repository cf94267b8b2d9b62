"""LLaMA's own tokenizer file, in the folders that people have: the ids are those that LLaVA's training saw."""

import dataclasses
import io
import json

import jax
import pytest
import sentencepiece
from PIL import Image
from transformers import LlamaTokenizerFast, LlavaProcessor

from vlm_jax.checkpoints.export import export
from vlm_jax.config import LanguageConfig, LlavaConfig, VisionConfig
from vlm_jax.data.conversation import TEMPLATES, Turn, render
from vlm_jax.data.encoding import encode_pieces
from vlm_jax.data.tokenizers import load_tokenizer
from vlm_jax.errors import InputError
from vlm_jax.models.llava import init_llava

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. USER: what is in the picture? ASSISTANT:",
    "is there a dog? no, there is a cat.",
    "Describe the picture in detail, please: how many boats, kites and houses?",
]
IMAGE_ID = 32000
CONFIG = LlavaConfig(
    vision=VisionConfig(image_size=28, patch_size=14, width=8, layers=1, heads=1, mlp_width=8),
    language=LanguageConfig(vocab_size=400, width=8, layers=1, heads=1, kv_heads=1, mlp_width=8),
    image_token_id=IMAGE_ID,
)


@pytest.fixture(scope="module")
def model():
    """A SentencePiece model of LLaMA's kind: BPE, bytes for unknown letters, a space in front, no normalising."""
    stream = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 20),
        model_writer=stream,
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        add_dummy_prefix=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return stream.getvalue()


def write_folder(folder, model, **config):
    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model)
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = {"tokenizer_class": "LlamaTokenizer", "add_bos_token": True, "add_eos_token": False, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokenizer))
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return folder


def as_in_training(model, text):
    """LLaVA ``tokenizer_image_token`` over the slow legacy tokenizer: each side of an image, and of an end token, is
    given to SentencePiece on its own, which puts a space in front of each."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)

    def ids(chunk):
        parts = chunk.split("</s>")
        return [one for i, part in enumerate(parts) for one in ([2] * (i > 0) + pieces.encode(part))]

    first, *others = text.split("<image>")
    return [1, *ids(first), *(one for chunk in others for one in [IMAGE_ID] * CONFIG.vision.patches + ids(chunk))]


CONVERSATIONS = [
    [Turn("human", "<image>\nis there a dog?")],
    [
        Turn("human", "<image>\nwhat is it?"),
        Turn("gpt", "a cat."),
        Turn("human", "how many?"),
        Turn("gpt", "two  boats"),
    ],
    # The picture in a later turn stays there.
    [Turn("human", "hi"), Turn("gpt", "Yes."), Turn("human", "how many?\n<image>"), Turn("gpt", "two")],
    [Turn("human", "no image: é 漢 \n x"), Turn("gpt", "Yes.")],
]


@pytest.mark.parametrize("template", ["vicuna_v1", "llava_v1"])
@pytest.mark.parametrize(
    "config", [{}, {"model_type": "llava"}, {"model_type": "llama"}], ids=["none", "llava", "llama"]
)
def test_ids_are_those_of_training(config, template, model, tmp_path):
    """Whatever config.json lies beside the tokenizer."""
    tokenizer = load_tokenizer(write_folder(tmp_path / "x", model, **config))
    for turns in CONVERSATIONS:
        pieces = render(TEMPLATES[template], turns)
        whole = "".join(piece.text for piece in pieces)
        assert encode_pieces(tokenizer, pieces, CONFIG).tokens.tolist() == as_in_training(model, whole)


def test_the_saved_fast_form_gives_the_same_ids(model, tmp_path):
    slow = load_tokenizer(write_folder(tmp_path / "x", model))
    LlamaTokenizerFast.from_pretrained(tmp_path / "x", legacy=True).save_pretrained(tmp_path / "fast")
    (tmp_path / "fast" / "tokenizer.model").unlink(missing_ok=True)
    (tmp_path / "fast" / "config.json").write_text(json.dumps({"model_type": "llava"}))
    fast = load_tokenizer(tmp_path / "fast")
    for turns in CONVERSATIONS:
        pieces = render(TEMPLATES["vicuna_v1"], turns)
        one, two = (encode_pieces(tokenizer, pieces, CONFIG).tokens.tolist() for tokenizer in (slow, fast))
        assert one == two


def test_a_folder_without_a_tokenizer(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(InputError, match="no tokenizer that can be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match="no tokenizer that can be read"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(InputError, match=r"no tokenizer that can be read|makes nothing of a question"):
        load_tokenizer(tmp_path)


def test_transformers_processor_takes_what_is_exported(model, tmp_path):
    """An original checkpoint has no ``<image>``; its export gets one, and the processor's ids are ours."""
    config = dataclasses.replace(CONFIG, image_token_id=400)
    export(tmp_path / "hf", "hf", config, init_llava(config, jax.random.key(0)), write_folder(tmp_path / "x", model))
    processor = LlavaProcessor.from_pretrained(tmp_path / "hf")
    text = "".join(piece.text for piece in render(TEMPLATES["vicuna_v1"], CONVERSATIONS[0]))
    made = processor(text=text, images=Image.new("RGB", (40, 30), "red"), return_tensors="np")
    ours = encode_pieces(load_tokenizer(tmp_path / "x"), render(TEMPLATES["vicuna_v1"], CONVERSATIONS[0]), config)
    assert made["pixel_values"].shape == (1, 3, 28, 28)
    assert made["input_ids"][0].tolist() == ours.tokens.tolist()
