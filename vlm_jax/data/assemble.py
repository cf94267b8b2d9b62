"""The steps that all pipelines share: cached views and texts, padding, and the endless stream itself."""

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal

import grain
import numpy as np
from jaxtyping import UInt8

from vlm_jax.arrays import Batch
from vlm_jax.config import LlavaConfig
from vlm_jax.data.conversation import IMAGE, Template, Tokenizer
from vlm_jax.data.encoding import Encoded
from vlm_jax.data.evaluation_turn import RewardPrompt, encode
from vlm_jax.data.images import load_image, placeholder, prepare
from vlm_jax.data.sources import Record
from vlm_jax.errors import InputError, TooLongError

Side = Literal["left", "right"]
View = Callable[[Record], UInt8[np.ndarray, "h w 3"]]

# How many texts a pipeline remembers, and how many bytes of prepared images.
KEPT_TEXTS = 1 << 15
_KEPT_IMAGE_BYTES = 1 << 28

# Grain's default reads 500 batches ahead with 16 threads, which is gigabytes of pixels.
READ_AHEAD = grain.ReadOptions(num_threads=4, prefetch_buffer_size=4)


@contextmanager
def placed(record: Record) -> Iterator[None]:
    """Adds the record's file and row to an ``InputError`` from within."""
    try:
        yield
    except InputError as error:
        if record.origin is None:
            raise
        raise error.at(*record.origin) from None


def viewer(config: LlavaConfig, resolution: int | None = None) -> View:
    """Record -> the uint8 square that its tower reads, as ``config.aspect`` makes it, or as transformers would for a
    model that is asked as transformers asks it; zeros without an image.

    The record's questions must show its image: the square of one that shows none would be read by nobody, and a marker
    without an image would stand for a black square.

    Raises:
        InputError: Of a record, where marker and image do not go together, or the image cannot be read.
    """
    size = config.vision.image_size
    empty = placeholder(size)
    as_transformers = config.as_transformers is not None

    @functools.lru_cache(_KEPT_IMAGE_BYTES // empty.nbytes)
    def see(image: Any) -> np.ndarray:
        return prepare(load_image(image, as_transformers), config.image_steps, resolution)

    def view(record: Record) -> np.ndarray:
        with placed(record):
            require_one_each(record)
            return empty if record.image is None else see(record.image)

    return view


def require_one_each(record: Record) -> None:
    """Raises:
    InputError: A question shows an image and there is none, or there is one and no question shows it, or two do.
    """
    shown = sum(turn.role == "human" and IMAGE in turn.text for turn in record.turns)
    if shown != (record.image is not None):
        found = f"{shown} questions with {IMAGE} and {'no' if record.image is None else 'one'} image"
        raise InputError(found, "one of each, or neither")


def suffixes(
    tokenizer: Tokenizer, template: Template, prompt: RewardPrompt
) -> Callable[[tuple[str, ...] | None], list[int]]:
    """Facts in their order -> ids of the evaluation turn, a piece of its own."""

    @functools.lru_cache(KEPT_TEXTS)
    def suffix(facts: tuple[str, ...] | None) -> list[int]:
        return encode(tokenizer, prompt, template, facts)

    return suffix


def shuffled(facts: tuple[str, ...] | None, rng: np.random.Generator) -> tuple[str, ...] | None:
    return facts and tuple(facts[i] for i in rng.permutation(len(facts)))


def judged(whole: Encoded, prompt_length: int, suffix: Sequence[int], max_length: int) -> Encoded:
    """A conversation and its evaluation turn cut to ``max_length`` at the right end of the answer.

    Raises:
        TooLongError: Prompt and evaluation turn alone leave no room for an answer.
    """
    room = max_length - len(suffix)
    if room <= prompt_length:
        found = f"a prompt of {prompt_length} and an evaluation turn of {len(suffix)} positions"
        raise TooLongError(found, f"room for an answer within max_length {max_length}")
    kept = whole.first(room)
    tokens = np.concatenate([kept.tokens, np.array(suffix, np.int32)])
    image = np.concatenate([kept.image_mask, np.zeros(len(suffix), bool)])
    return Encoded(tokens, image, np.zeros(len(tokens), bool))


def pad(rows: Sequence[Any], length: int, side: Side, value: int | bool, dtype: type) -> np.ndarray:
    """Rows of at most ``length`` values -> [b, length]; the padding stands on ``side``."""
    padded = np.full((len(rows), length), value, dtype)
    for target, row in zip(padded, rows, strict=True):
        target[slice(0, len(row)) if side == "right" else slice(length - len(row), length)] = row
    return padded


def batch_of(samples: Sequence[tuple[Encoded, np.ndarray]], length: int, side: Side, pad_id: int) -> Batch:
    """Texts of at most ``length`` positions and their images (one each, or [n, h, w, 3]) -> ``Batch`` [b, length] of
    NumPy arrays."""
    texts = [text for text, _ in samples]
    return Batch(
        tokens=pad([text.tokens for text in texts], length, side, pad_id, np.int32),
        attention_mask=pad([np.ones(len(text), bool) for text in texts], length, side, False, bool),
        image_mask=pad([text.image_mask for text in texts], length, side, False, bool),
        loss_mask=pad([text.loss_mask for text in texts], length, side, False, bool),
        images=np.stack([image for _, image in samples]),
    )


def order(count: int, seed: int) -> grain.MapDataset[int]:
    """Indices of records as a stream goes through them, without end: each epoch is a new shuffle of range(count)."""
    return grain.MapDataset.range(count).seed(seed).shuffle().repeat()


def stream(
    count: int,
    batch_size: int,
    seed: int,
    sample: Callable[[int, np.random.Generator], Any],
    collate: Callable,
    places: Sequence[int],
) -> grain.IterDataset:
    """Endless batches of ``collate([sample(index, rng), ...])``; the indices are those of :func:`order`.

    ``rng`` depends on the seed and on the place in the stream, not on what was read before. Of each batch's
    ``batch_size`` samples only those at ``places`` are made: where several processes share a batch, all of them go
    through the same stream, and its state is the same in each.
    """
    if count == 0:
        raise ValueError("a pipeline needs at least one record")
    samples = order(count, seed).random_map(sample)

    def batch(number: int) -> Any:
        return collate([samples[number * batch_size + place] for place in places])

    return grain.MapDataset.range(len(samples) // batch_size).map(batch).to_iter_dataset(READ_AHEAD)
