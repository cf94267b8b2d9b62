"""Pieces of a conversation to token ids, with the loss mask and the image span known by construction.

Each piece is tokenised on its own and brings its own mask. The end token of an answer is always the one id
``config.eos_token_id``; an image is ``config.vision.patches`` times ``config.image_token_id``, between
``config.image_ends`` where the model was trained with them (they are tokens of the vocabulary and lie outside the image
mask).

Tokenisers of the LLaMA family put a space in front of every text they are given. One leading space of a piece
is therefore left to the tokeniser where it does so, and kept where it does not (byte-level BPE). With that
the ids equal those of original LLaVA, which splits the text at ``<image>`` and tokenises each side separately
(``mm_utils.py``, ``tokenizer_image_token``): after an image come ``▁`` and ``\\n``, and a turn after ``</s>``
starts with ``▁USER``.

A piece is plain text: ``</s>`` or ``<s>`` written by a user is spelled out and never becomes a control token.

Where a model is asked as transformers asks it (``config.as_transformers``), the text is tokenised at once:
``data/whole_text.py``.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int32

from vlm_jax.config import LlavaConfig
from vlm_jax.data.conversation import Piece, Template, Tokenizer, Turn, render
from vlm_jax.data.whole_text import TOKENIZING, encode_whole
from vlm_jax.errors import TooLongError


@dataclasses.dataclass(frozen=True, slots=True)
class Encoded:
    """One tokenised conversation, not padded.

    Attributes:
        tokens: Ids, begin token first, the image expanded to one placeholder id per patch.
        image_mask: True on the image span.
        loss_mask: True on the ids of answers and on their end tokens.
    """

    tokens: Int32[np.ndarray, " t"]
    image_mask: Bool[np.ndarray, " t"]
    loss_mask: Bool[np.ndarray, " t"]

    def __len__(self) -> int:
        return len(self.tokens)

    def first(self, count: int) -> "Encoded":
        return Encoded(self.tokens[:count], self.image_mask[:count], self.loss_mask[:count])


@functools.lru_cache(maxsize=8)
def _own_space(tokenizer: Tokenizer) -> Literal["none", "one more", "the same"]:
    """Whether the tokeniser puts a space in front of every text, and what it makes of one that is there already."""
    plain, spaced = (tokenizer.tokenize(text) for text in ("a", " a"))
    if not plain[0].startswith("▁"):
        return "none"
    return "the same" if plain == spaced else "one more"


def encode_texts(tokenizer: Tokenizer, texts: Sequence[str], keep_space: bool = False) -> list[list[int]]:
    """Ids of each text as a piece of its own, without control tokens.

    Args:
        tokenizer: A Hugging Face tokenizer.
        texts: Pieces.
        keep_space: Whether a space in front of a text stands beside the one that tokenisers of the LLaMA family put
            there (SentencePiece over the text as it is); otherwise it is that one.
    """
    with TOKENIZING:
        own = _own_space(tokenizer)
        if own == "one more" and not keep_space:
            texts = [text.removeprefix(" ") for text in texts]
        elif own == "the same" and keep_space:
            texts = [f" {text}" if text.startswith(" ") else text for text in texts]
        return tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            # A piece is no sequence, and what holds whole ones to a length is below.
            verbose=False,
        )["input_ids"]


def encode_pieces(tokenizer: Tokenizer, pieces: Sequence[Piece], config: LlavaConfig, begins: bool = True) -> Encoded:
    """Begin token, unless the pieces bring their own, and all pieces, however long."""
    texts = iter(encode_texts(tokenizer, [piece.text for piece in pieces if piece.kind == "text"]))
    tokens, image, loss = ([config.bos_token_id], [False], [False]) if begins else ([], [], [])
    for piece in pieces:
        if piece.kind == "image":
            first, last = ([end] for end in config.image_ends) if config.image_ends else ([], [])
            ids = [*first, *[config.image_token_id] * config.vision.patches, *last]
        elif piece.kind == "end":
            ids = [config.eos_token_id]
        elif piece.kind == "control":
            ids = [tokenizer.convert_tokens_to_ids(piece.text)]
        else:
            ids = next(texts)
        tokens += ids
        image += [piece.kind == "image" and one == config.image_token_id for one in ids]
        loss += [piece.is_assistant] * len(ids)
    return Encoded(np.array(tokens, np.int32), np.array(image, bool), np.array(loss, bool))


def _encoded(tokenizer: Tokenizer, template: Template, pieces: Sequence[Piece], config: LlavaConfig) -> Encoded:
    """Piece by piece, or all at once where the model is asked as transformers asks it."""
    if config.as_transformers is None:
        return encode_pieces(tokenizer, pieces, config, template.begins)
    tokens, image, loss = encode_whole(tokenizer, pieces, config)
    return Encoded(np.array(tokens, np.int32), np.array(image, bool), np.array(loss, bool))


def encode_conversation(
    tokenizer: Tokenizer, template: Template, turns: Sequence[Turn], config: LlavaConfig, max_length: int
) -> Encoded:
    """A training conversation, cut at the right to ``max_length`` positions (image span included).

    The loss mask is that of LLaVA's ``preprocess_v1``: answers and their end tokens, nothing else.

    Returns:
        ``Encoded`` with t <= max_length.

    Raises:
        TooLongError: The cut would fall into or before the image span, or would leave nothing to learn from.
    """
    return _cut(_encoded(tokenizer, template, _rendered(template, turns, config), config), max_length)


def encode_judged(
    tokenizer: Tokenizer, template: Template, turns: Sequence[Turn], answer: str, config: LlavaConfig, max_length: int
) -> Encoded:
    """A prompt and a whole answer to it, cut at the right to ``max_length`` positions: what a reward model reads before
    the evaluation turn, in its training as when it scores.

    Args:
        tokenizer, template, config, max_length: As in :func:`encode_conversation`.
        turns: The prompt; the last one is the user's.
        answer: Of the assistant.

    Raises:
        TooLongError: As in :func:`encode_conversation`.
    """
    if config.as_transformers is None:
        return encode_conversation(tokenizer, template, [*turns, Turn("gpt", answer)], config, max_length)
    return _cut(_continued(tokenizer, template, turns, answer, config, end=True), max_length)


def _rendered(template: Template, turns: Sequence[Turn], config: LlavaConfig) -> list[Piece]:
    return render(template, turns, strips=config.as_transformers is None)


def _cut(whole: Encoded, max_length: int) -> Encoded:
    cut = whole.first(max_length)
    if cut.image_mask.sum() != whole.image_mask.sum():
        end = int(np.flatnonzero(whole.image_mask)[-1]) + 1
        raise TooLongError(f"an image span that ends at position {end}", f"it within max_length {max_length}")
    if not cut.loss_mask.any():
        start = int(np.flatnonzero(whole.loss_mask)[0]) if whole.loss_mask.any() else len(whole)
        raise TooLongError(
            f"no answer token within max_length {max_length} (position {start} would be the first)",
            "at least one token to learn",
        )
    return cut


def encode_prompt(
    tokenizer: Tokenizer, template: Template, turns: Sequence[Turn], config: LlavaConfig, max_length: int
) -> Encoded:
    """A prompt that ends at ``ASSISTANT:``; its loss mask is all False, earlier answers included.

    Raises:
        TooLongError: It is longer than ``max_length`` positions (image span included); it is never cut or
            dropped.
        ValueError: The last turn is not the user's.
    """
    if not turns or turns[-1].role != "human":
        raise ValueError("a prompt ends with a human turn")
    whole = _encoded(tokenizer, template, _rendered(template, turns, config), config)
    if len(whole) > max_length:
        raise TooLongError(f"a prompt of {len(whole)} positions (image span included)", f"at most {max_length}")
    return dataclasses.replace(whole, loss_mask=np.zeros(len(whole), bool))


def encode_continuation(
    tokenizer: Tokenizer,
    template: Template,
    turns: Sequence[Turn],
    text: str,
    config: LlavaConfig,
    max_length: int,
    end: bool = False,
) -> Encoded:
    """A prompt and how its answer goes on, with the loss mask on the latter.

    Without an end token, unless ``end`` says that the answer is whole: then the ids are those of
    :func:`encode_judged`.

    Raises:
        TooLongError: Both are longer than ``max_length`` positions; they are never cut.
        ValueError: The last turn is not the user's.
    """
    prompt = encode_prompt(tokenizer, template, turns, config, max_length)
    if config.as_transformers is not None:
        whole = _continued(tokenizer, template, turns, text, config, end)
    else:
        answer = np.array(encode_answer(tokenizer, template, text, config, end), np.int32)
        nothing = np.zeros(len(answer), bool)
        whole = Encoded(
            tokens=np.concatenate([prompt.tokens, answer]),
            image_mask=np.concatenate([prompt.image_mask, nothing]),
            loss_mask=np.concatenate([prompt.loss_mask, ~nothing]),
        )
    if len(whole) > max_length:
        raise TooLongError(f"a prompt and continuation of {len(whole)} positions", f"at most {max_length}")
    return whole


def _continued(
    tokenizer: Tokenizer, template: Template, turns: Sequence[Turn], text: str, config: LlavaConfig, end: bool
) -> Encoded:
    """A prompt's text and an answer's tokenised together."""
    prompt = [dataclasses.replace(piece, is_assistant=False) for piece in _rendered(template, turns, config)]
    answer = [Piece(f"{template.lead}{text}", True)]
    if end:
        answer.append(Piece(template.end, True, "control") if template.end else Piece("", True, "end"))
    return _encoded(tokenizer, template, [*prompt, *answer], config)


def encode_answer(
    tokenizer: Tokenizer, template: Template, text: str, config: LlavaConfig, end: bool = True
) -> list[int]:
    """Ids of an answer, its end token last unless ``end`` is false."""
    if config.as_transformers is not None:
        whole = _continued(tokenizer, template, [Turn("human", "x")], text, config, end)
        return whole.tokens[whole.loss_mask].tolist()
    ids = encode_texts(tokenizer, [f"{template.lead}{text}"])[0]
    return [*ids, config.eos_token_id] if end else ids
