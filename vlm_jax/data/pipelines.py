"""Records to batches of fixed shape.

The three training pipelines are endless grain datasets: each epoch is a fresh seeded shuffle of all records,
a batch may span two epochs, and ``iter(...)`` has ``get_state()`` and ``set_state(state)``, so that a run
resumes at exactly the next batch. Whatever is drawn at random for a sample depends on the seed and on its
place in the stream alone. An ``InputError`` met on the way names file and row.

Where several processes share every batch, ``held`` says which rows of it are made here (number of rows -> places
among them); the stream and its state are those of one process that makes all.

Tokenised records and prepared images are kept (least recently used first out); image bytes stay 8 bit
throughout.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np
from jaxtyping import UInt8

from vlm_jax.arrays import Batch, EvalBatch, PreferenceBatch, PromptBatch
from vlm_jax.config import LlavaConfig
from vlm_jax.data.assemble import (
    KEPT_TEXTS,
    READ_AHEAD,
    batch_of,
    judged,
    pad,
    placed,
    shuffled,
    stream,
    suffixes,
    viewer,
)
from vlm_jax.data.conversation import Template, Tokenizer, Turn
from vlm_jax.data.encoding import Encoded, encode_continuation, encode_conversation, encode_judged, encode_prompt
from vlm_jax.data.evaluation_turn import RewardPrompt
from vlm_jax.data.sources import Instruction, Preference, Prompt
from vlm_jax.errors import TooLongError

Facts = tuple[str, ...] | None
Sample = tuple[Encoded, UInt8[np.ndarray, "h w 3"]]
Held = Callable[[int], Sequence[int]]

# Positions of text, added to those of the image.
_TEXT_BUCKETS = (64, 128, 256, 512, 1024, 2048)


def prompt_lengths(config: LlavaConfig, longest: int | None = None) -> list[int]:
    """What texts with an image are padded to; image span included.

    Args:
        config: Says how many positions an image takes.
        longest: A limit of one's own: the last length, and none above it.
    """
    lengths = [config.vision.patches + length for length in _TEXT_BUCKETS]
    return lengths if longest is None else [*(length for length in lengths if length < longest), longest]


def instruction_text(
    tokenizer: Tokenizer, config: LlavaConfig, template: Template, max_length: int
) -> Callable[[Instruction], Encoded]:
    """Record -> what is learnt from it; an ``InputError`` that names its row where that does not fit."""

    def encode(record: Instruction) -> Encoded:
        with placed(record):
            return encode_conversation(tokenizer, template, record.turns, config, max_length)

    return encode


def pair_texts(
    tokenizer: Tokenizer, config: LlavaConfig, template: Template, max_length: int, reward_prompt: RewardPrompt
) -> Callable[[Preference, Facts], list[Encoded]]:
    """Record and its facts in their order -> both answers as they are judged; an ``InputError`` that names the row
    where they do not fit."""
    suffix_of = suffixes(tokenizer, template, reward_prompt)

    @functools.lru_cache(KEPT_TEXTS)
    def encode(turns: tuple[Turn, ...], answer: str) -> tuple[Encoded, int]:
        whole = encode_judged(tokenizer, template, turns, answer, config, max_length)
        return whole, len(encode_prompt(tokenizer, template, turns, config, max_length))

    def texts(record: Preference, facts: Facts) -> list[Encoded]:
        with placed(record):
            suffix = suffix_of(facts)
            return [judged(*encode(record.turns, answer), suffix, max_length) for answer in record.answers]

    return texts


def prompt_text(
    tokenizer: Tokenizer,
    config: LlavaConfig,
    template: Template,
    prompt_length: int,
    suffix_length: int,
    reward_prompt: RewardPrompt,
) -> Callable[[Prompt, Facts], tuple[Encoded, list[int]]]:
    """Record and its facts in their order -> prompt and evaluation turn; an ``InputError`` that names the row where
    they do not fit."""
    suffix_of = suffixes(tokenizer, template, reward_prompt)

    @functools.lru_cache(KEPT_TEXTS)
    def encode(turns: tuple[Turn, ...]) -> Encoded:
        return encode_prompt(tokenizer, template, turns, config, prompt_length)

    def text(record: Prompt, facts: Facts) -> tuple[Encoded, list[int]]:
        with placed(record):
            suffix = suffix_of(facts)
            if len(suffix) > suffix_length:
                raise TooLongError(f"an evaluation turn of {len(suffix)} positions", f"at most {suffix_length}")
            return encode(record.turns), suffix

    return text


def instruction_batches(
    records: Sequence[Instruction],
    tokenizer: Tokenizer,
    config: LlavaConfig,
    template: Template,
    batch_size: int,
    max_length: int,
    seed: int,
    held: Held = range,
) -> grain.IterDataset[Batch]:
    """Endless right-padded batches for supervised training: ``Batch`` of b = batch_size, t = max_length."""
    view, text_of = viewer(config), instruction_text(tokenizer, config, template, max_length)

    @functools.lru_cache(KEPT_TEXTS)
    def encode(index: int) -> Encoded:
        return text_of(records[index])

    def sample(index: int, _: np.random.Generator) -> Sample:
        return encode(index), view(records[index])

    def collate(samples: Sequence[Sample]) -> Batch:
        return batch_of(samples, max_length, "right", config.pad_token_id)

    return stream(len(records), batch_size, seed, sample, collate, held(batch_size))


def preference_batches(
    records: Sequence[Preference],
    tokenizer: Tokenizer,
    config: LlavaConfig,
    template: Template,
    batch_size: int,
    max_length: int,
    reward_prompt: RewardPrompt,
    seed: int,
    resolution: int | None = None,
    held: Held = range,
) -> grain.IterDataset[PreferenceBatch]:
    """Endless batches of ``batch_size`` pairs: conversation, answer, end token, evaluation turn.

    A text that is too long loses the right end of its answer (and then the end token: as an unfinished answer
    looks in PPO), never the image, the question or the evaluation turn. The facts of a record are shuffled
    anew for every sample; both answers of a pair get the same order, so that the score difference is the
    answers' alone (the released code, ``data_utils_rm.py``, shuffles once per answer).

    Args:
        records: Pairs; where ``facts`` is None the slot of the evaluation turn stays empty.
        tokenizer: A Hugging Face tokenizer.
        config: The reward model's.
        template: The words around the turns.
        batch_size: Pairs per batch, half its rows.
        max_length: Positions, image span and evaluation turn included.
        reward_prompt: The evaluation turn.
        seed: Of the order of records and facts.
        resolution: A coarser view, see ``prepare``.
        held: Rows that are made here.
    """
    view, texts_of = viewer(config, resolution), pair_texts(tokenizer, config, template, max_length, reward_prompt)
    rows, pairs = held(2 * batch_size), held(batch_size)
    places = sorted({row % batch_size for row in rows} | set(pairs))

    def sample(index: int, rng: np.random.Generator) -> tuple[list[Sample], int]:
        record = records[index]
        texts, image = texts_of(record, shuffled(record.facts, rng)), view(record)
        return [(text, image) for text in texts], record.choice

    def collate(samples: Sequence[tuple[list[Sample], int]]) -> PreferenceBatch:
        made = dict(zip(places, samples, strict=True))
        # Row 3 is the first answer of pair 3, row 3 + batch_size its second.
        texts = [made[row % batch_size][0][row // batch_size] for row in rows]
        choice = np.array([made[pair][1] for pair in pairs], np.int32)
        return PreferenceBatch(batch_of(texts, max_length, "left", config.pad_token_id), choice)

    return stream(len(records), batch_size, seed, sample, collate, places)


def prompt_batches(
    records: Sequence[Prompt],
    tokenizer: Tokenizer,
    config: LlavaConfig,
    template: Template,
    batch_size: int,
    prompt_length: int,
    suffix_length: int,
    reward_prompt: RewardPrompt,
    seed: int,
    reward_resolution: int | None = None,
    held: Held = range,
) -> grain.IterDataset[PromptBatch]:
    """Endless batches of prompts for PPO. A prompt that is too long is an error, never dropped.

    Args:
        records: Prompts; where ``facts`` is None the slot of the evaluation turn stays empty. Facts are
            shuffled anew for every sample.
        tokenizer: A Hugging Face tokenizer.
        config: The model's.
        template: The words around the turns.
        batch_size: b.
        prompt_length: q, image span included.
        suffix_length: s.
        reward_prompt: The evaluation turn.
        seed: Of the order of records and facts.
        reward_resolution: A coarser view for the reward model, see ``prepare``.
        held: Rows that are made here.
    """
    view = viewer(config)
    reward_view = None if reward_resolution is None else viewer(config, reward_resolution)
    text_of = prompt_text(tokenizer, config, template, prompt_length, suffix_length, reward_prompt)

    def sample(index: int, rng: np.random.Generator) -> dict[str, Any]:
        record = records[index]
        text, suffix = text_of(record, shuffled(record.facts, rng))
        return {
            "own": (text, view(record)),
            "reward_image": reward_view and reward_view(record),
            "suffix": suffix,
            "record": record,
            "index": index,
        }

    def collate(samples: Sequence[dict[str, Any]]) -> PromptBatch:
        suffixes = [sample["suffix"] for sample in samples]
        return PromptBatch(
            prompt=batch_of([sample["own"] for sample in samples], prompt_length, "left", config.pad_token_id),
            reward_images=reward_view and np.stack([sample["reward_image"] for sample in samples]),
            suffix_tokens=pad(suffixes, suffix_length, "right", config.pad_token_id, np.int32),
            suffix_mask=pad([np.ones(len(suffix), bool) for suffix in suffixes], suffix_length, "right", False, bool),
            length_bonus=np.array([sample["record"].length_bonus for sample in samples], np.float32),
            caption_type=np.array([sample["record"].caption_type for sample in samples], np.int32),
            index=np.array([sample["index"] for sample in samples], np.int32),
        )

    return stream(len(records), batch_size, seed, sample, collate, held(batch_size))


def image_prompts(
    records: Sequence[Prompt],
    tokenizer: Tokenizer,
    config: LlavaConfig,
    template: Template,
    batch_size: int,
    buckets: Sequence[int],
) -> grain.IterDataset[EvalBatch]:
    """Every record once, left-padded to the shortest of ``buckets`` that holds it; no shuffle.

    Batches come by rising length and hold records of one bucket in their order, so a run compiles one
    function per bucket in use. ``EvalBatch.index`` tells which record a row is.

    Raises:
        InputError: A prompt is longer than the largest bucket; found before the first batch.
    """
    texts = []
    for record in records:
        with placed(record):
            texts.append(encode_prompt(tokenizer, template, record.turns, config, max(buckets)))
    return _by_length(records, texts, config, batch_size, buckets)


def image_continuations(
    records: Sequence[Prompt],
    continuations: Sequence[str],
    tokenizer: Tokenizer,
    config: LlavaConfig,
    template: Template,
    batch_size: int,
    buckets: Sequence[int],
    end: bool = False,
) -> grain.IterDataset[EvalBatch]:
    """As :func:`image_prompts`, with the beginning of an answer behind each prompt, which the loss mask marks.

    With ``end`` the answers are whole, and their end tokens belong to them.

    Raises:
        InputError: Prompt and continuation are longer than the largest bucket; found before the first batch.
    """
    texts = []
    for record, text in zip(records, continuations, strict=True):
        with placed(record):
            texts.append(encode_continuation(tokenizer, template, record.turns, text, config, max(buckets), end))
    return _by_length(records, texts, config, batch_size, buckets)


def judged_answers(
    records: Sequence[Prompt],
    answers: Sequence[str],
    tokenizer: Tokenizer,
    config: LlavaConfig,
    template: Template,
    batch_size: int,
    buckets: Sequence[int],
    reward_prompt: RewardPrompt,
    resolution: int | None = None,
) -> grain.IterDataset[EvalBatch]:
    """As :func:`image_prompts`, with a whole answer and the evaluation turn behind each prompt: what a reward model
    reads in its training (:func:`preference_batches`). Facts stand in the records' order, and nothing is cut.

    Raises:
        InputError: A text is longer than the largest bucket; found before the first batch.
    """
    suffix_of, texts, most = suffixes(tokenizer, template, reward_prompt), [], max(buckets)
    for record, answer in zip(records, answers, strict=True):
        suffix = suffix_of(record.facts)
        with placed(record):
            room = most - len(suffix)
            whole = encode_continuation(tokenizer, template, record.turns, answer, config, room, end=True)
            texts.append(judged(whole, 0, suffix, most))
    return _by_length(records, texts, config, batch_size, buckets, resolution)


def _by_length(
    records: Sequence[Prompt],
    texts: Sequence[Encoded],
    config: LlavaConfig,
    batch_size: int,
    buckets: Sequence[int],
    resolution: int | None = None,
) -> grain.IterDataset[EvalBatch]:
    """Texts of at most the largest bucket's length and the records' images, left-padded."""
    view = viewer(config, resolution)
    groups: dict[int, list[int]] = {length: [] for length in sorted(buckets)}
    for index, text in enumerate(texts):
        groups[next(length for length in groups if len(text) <= length)].append(index)
    plan = [
        (length, members[start : start + batch_size])
        for length, members in groups.items()
        for start in range(0, len(members), batch_size)
    ]

    def assemble(part: tuple[int, list[int]]) -> EvalBatch:
        length, members = part
        filled = members + members[-1:] * (batch_size - len(members))
        samples = [(texts[index], view(records[index])) for index in filled]
        return EvalBatch(
            batch=batch_of(samples, length, "left", config.pad_token_id),
            row_mask=np.arange(batch_size) < len(members),
            index=np.array(filled, np.int32),
        )

    return grain.MapDataset.source(plan).map(assemble).to_iter_dataset(READ_AHEAD)
