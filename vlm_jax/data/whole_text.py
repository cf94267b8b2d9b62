"""A conversation's text tokenised at once, control tokens and all, as transformers' ``LlavaProcessor`` does.

The tokens of a text then depend on what stands before it: behind an image and behind an end token many tokenizers put
no space of their own. Source: transformers ``processing_llava.py`` (an image's token is repeated in the text), and
``ProcessorMixin.apply_chat_template`` (a text that begins with the begin token gets no second one).
"""

import threading
from collections.abc import Sequence
from typing import NamedTuple

from vlm_jax.config import LlavaConfig
from vlm_jax.data.conversation import IMAGE, Piece, Tokenizer
from vlm_jax.errors import InputError

# Setting an option of a fast tokenizer while another thread encodes with it raises "Already borrowed".
TOKENIZING = threading.Lock()


class Marked(NamedTuple):
    """Ids of a text, which of them an image's features fill, and which belong to answers."""

    ids: list[int]
    image: list[bool]
    loss: list[bool]


def control_tokens(tokenizer: Tokenizer) -> set[str]:
    """Every text that a tokenizer takes for a control token."""
    added = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return added | set(tokenizer.all_special_tokens)


def encode_whole(tokenizer: Tokenizer, pieces: Sequence[Piece], config: LlavaConfig) -> Marked:
    """Ids of all pieces together; a token belongs to an answer where a letter of it does.

    Args:
        tokenizer: A fast one, which says where its tokens stand.
        pieces: A conversation, without the begin token that the tokenizer itself puts in front of a text.
        config: The model's.

    Raises:
        InputError: The tokenizer is a slow one or has no token for an image, or somebody's words hold a control token:
            it would become one.
    """
    _require_image_token(tokenizer, config)
    _refuse_control_tokens(tokenizer, pieces)
    text, answers, ends = "", [], _ends_to_write(tokenizer, pieces, config)
    for piece in pieces:
        written = _written(tokenizer, piece, config, ends)
        if piece.is_assistant:
            answers.append((len(text), len(text) + len(written)))
        text += written
    begins = not (tokenizer.bos_token and text.startswith(tokenizer.bos_token))
    with TOKENIZING:
        made = tokenizer(
            text,
            add_special_tokens=begins,
            split_special_tokens=False,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
    marked = Marked([], [], [])
    for one, place in zip(made["input_ids"], made["offset_mapping"], strict=True):
        is_image = one == config.image_token_id
        count = config.vision.patches if is_image else 1
        marked.ids.extend([one] * count)
        marked.image.extend([is_image] * count)
        marked.loss.extend([_is_in(place, answers)] * count)
    return marked


def _is_in(place: tuple[int, int], spans: Sequence[tuple[int, int]]) -> bool:
    start, end = place
    return any(start < after and (end > first or start == end >= first) for first, after in spans)


def _ends_to_write(tokenizer: Tokenizer, pieces: Sequence[Piece], config: LlavaConfig) -> tuple[str, str]:
    """The tokens around an image, where the model was trained with them and the template does not write them itself."""
    if not config.image_ends:
        return "", ""
    first, last = tokenizer.convert_ids_to_tokens(list(config.image_ends))
    return ("", "") if any(piece.text in (first, last) for piece in pieces) else (first, last)


def _written(tokenizer: Tokenizer, piece: Piece, config: LlavaConfig, ends: tuple[str, str]) -> str:
    if piece.kind == "end":
        return tokenizer.convert_ids_to_tokens(config.eos_token_id)
    return f"{ends[0]}{IMAGE}{ends[1]}" if piece.kind == "image" else piece.text


def _require_image_token(tokenizer: Tokenizer, config: LlavaConfig) -> None:
    if not tokenizer.is_fast:
        raise InputError("a tokenizer without tokenizer.json", "one, to answer as transformers does")
    if (found := tokenizer.get_vocab().get(IMAGE)) != config.image_token_id:
        told = f"no {IMAGE} among the tokenizer's tokens" if found is None else f"{found} as the tokenizer's {IMAGE}"
        raise InputError(told, f"{config.image_token_id}, the model's, to answer as transformers does")


def _refuse_control_tokens(tokenizer: Tokenizer, pieces: Sequence[Piece]) -> None:
    said = [piece.text for piece in pieces if piece.kind == "text"]
    if odd := sorted(token for token in control_tokens(tokenizer) if any(token in text for text in said)):
        found = f"{', '.join(odd)} in a text, which transformers reads as control tokens"
        raise InputError(found, "words, or no --like transformers")
