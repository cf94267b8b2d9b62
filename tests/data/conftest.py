"""A small LLaMA-like tokenizer, trained on the spot, and a config whose image is four positions."""

import functools
import json

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from vlm_jax.config import LanguageConfig, LlavaConfig, VisionConfig

CORPUS = [
    "A chat between a curious user and an artificial intelligence assistant. USER: what is in the picture? "
    "ASSISTANT: a red ball and a tree in the snow. Is that description fully supported by the facts?",
    "\nis there a dog?\nno, there is a cat.",
] * 5
SPECIAL = ["<unk>", "<s>", "</s>", "<image>"]


def train_tokenizer(style: str) -> PreTrainedTokenizerFast:
    """``style``: "metaspace" (today's LLaMA), "normalizer" (its older files) or "bytes" (GPT-2)."""
    byte_names = [f"<0x{byte:02X}>" for byte in range(256)]
    special, alphabet = [*SPECIAL, *byte_names], []
    if style == "bytes":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        special, alphabet = SPECIAL, pre_tokenizers.ByteLevel.alphabet()
    else:
        tokenizer = Tokenizer(models.BPE(byte_fallback=True, fuse_unk=True, unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always", split=True)
    if style != "bytes":
        tokenizer.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    trainer = trainers.BpeTrainer(
        vocab_size=512, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if style == "normalizer":
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        tokenizer.pre_tokenizer = None
    # Byte tokens were only reserved through the trainer; they are ordinary vocabulary.
    state = json.loads(tokenizer.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    tokenizer = Tokenizer.from_str(json.dumps(state))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", add_bos_token=True
    )


@pytest.fixture(scope="session")
def tokenizer_of():
    """style -> tokenizer."""
    return functools.cache(train_tokenizer)


@pytest.fixture(scope="session")
def tokenizer(tokenizer_of):
    return tokenizer_of("metaspace")


@pytest.fixture(scope="session")
def config():
    vision = VisionConfig(image_size=8, patch_size=4, width=8, layers=1, heads=1, mlp_width=8)
    language = LanguageConfig(vocab_size=512, width=8, layers=1, heads=1, kv_heads=1, mlp_width=8)
    return LlavaConfig(vision=vision, language=language, image_token_id=3)


@pytest.fixture
def images(tmp_path):
    """A folder with 0.png .. 9.png of different single colours."""
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(10):
        Image.fromarray(np.full((8, 8, 3), 10 + number, np.uint8)).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def write(tmp_path):
    """Writes rows as a JSON list and returns the path."""

    def save(rows, name="data.json"):
        path = tmp_path / name
        path.write_text(rows if isinstance(rows, str) else json.dumps(rows), encoding="utf-8")
        return path

    return save
