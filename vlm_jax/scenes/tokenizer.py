"""A LLaMA-like tokenizer of 512 entries for the drawn world.

Ids: four special tokens, 256 bytes, then the words of the world (one token each, with "▁" for the space before) and
single characters. Everything else is spelt in bytes, so any text survives a round trip.
"""

import collections
import re
from pathlib import Path

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vlm_jax.files import write_json
from vlm_jax.scenes.conversations import (
    IMAGE_PREFIX,
    checked_conversation,
    fact_conversation,
    inventory,
    listed_kinds,
)
from vlm_jax.scenes.language import INSTRUCTIONS, KIND_OF_WORD, NUMBERS, captions, description
from vlm_jax.scenes.questions import existence_questions, questions
from vlm_jax.scenes.world import COLOURS, LETTERS, SIZES, scene

SIZE = 512
SPECIAL = ("<unk>", "<s>", "</s>", "<image>")
_SPACE = "▁"
_WORD = rf"{_SPACE}?[A-Za-z]+"
_CORPUS_SCENES = 150
# What the conversation template of Vicuna v1 and a short reward prompt say around questions and answers, and words
# that a person asking about a picture may use beyond those that the world itself uses.
_TEMPLATE = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions. human USER: ASSISTANT: "
    "Facts: Rate my last answer. The score is"
)
_OTHER_WORDS = "not nothing cannot only also with some any big little bigger smaller fewer under over"
_ALPHABET = "abcdefghijklmnopqrstuvwxyz.,?:-'!\n" + _SPACE


def build(path: str | Path) -> Tokenizer:
    """Writes tokenizer.json and its two companions into the folder ``path``, and returns the tokenizer."""
    tokenizer = _tokenizer(_vocabulary())
    path = Path(path)
    path.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(path / "tokenizer.json"))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}
    config = {
        **names,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": True,
        "add_eos_token": False,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "padding_side": "right",
    }
    write_json(path / "tokenizer_config.json", config)
    write_json(path / "special_tokens_map.json", names)
    return tokenizer


def corpus() -> list[str]:
    """Every kind of text of the world, from a few hundred scenes."""
    rng = np.random.Generator(np.random.Philox(key=0))
    texts = [_TEMPLATE, _OTHER_WORDS, *INSTRUCTIONS, *(IMAGE_PREFIX + text for text in INSTRUCTIONS)]
    for index in range(_CORPUS_SCENES):
        here = scene("train", index)
        texts += captions(here)
        texts.append(description(here, rng, synthetic=True))
        for question in questions(here, rng) + existence_questions(here, rng):
            texts += [IMAGE_PREFIX + question.text, question.text, question.answer]
        turns = fact_conversation(here, rng) + checked_conversation(here, rng)
        texts += [turn["value"] for turn in turns]
        texts += inventory(here, listed_kinds(here, rng))
    return texts


def _words(text: str) -> list[str]:
    """The words of a text as they will be looked up: a word at the start of a later line has no space before it."""
    pieces = re.findall(_WORD, _SPACE + text.replace("<image>", "").replace(" ", _SPACE))
    return [piece for piece in pieces if piece.startswith(_SPACE) or len(piece) > 1]


def _vocabulary() -> dict[str, int]:
    fixed = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256)), *_ALPHABET]
    wanted = [*KIND_OF_WORD, *NUMBERS, *COLOURS, *SIZES, *LETTERS, "USER", "ASSISTANT", "Yes", "No"]
    counts = collections.Counter(word for text in corpus() for word in _words(text))
    pieces = list(
        dict.fromkeys([*fixed, *(_SPACE + word for word in wanted), *sorted(counts, key=lambda w: (-counts[w], w))])
    )
    # What places are left go to the characters that a reader of logs would rather not see as bytes.
    spare = [c for c in map(chr, range(33, 127)) if c not in _ALPHABET]
    pieces = [*pieces, *spare][:SIZE]
    assert len(pieces) == SIZE, f"{len(pieces)} pieces instead of {SIZE}"
    return {piece: i for i, piece in enumerate(pieces)}


def _tokenizer(vocabulary: dict[str, int]) -> Tokenizer:
    # A word in the vocabulary is taken whole, so no merges are needed to reach it.
    model = models.BPE(
        vocab=vocabulary, merges=[], unk_token="<unk>", fuse_unk=True, byte_fallback=True, ignore_merges=True
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)])
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(_WORD), "isolated")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", 1)]
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False, special=True) for token in SPECIAL])
    return tokenizer
