"""Several conversations in one row, so that less of a step is padding.

A batch holds the conversations that it would hold with one in each row, in fewer rows: which ones go together in an
update, and what it computes, stay the same. A conversation is never cut: its image span neither.
"""

import dataclasses
import functools
from collections.abc import Sequence

import grain
import numpy as np
from jaxtyping import UInt8

from vlm_jax.arrays import Batch
from vlm_jax.config import LlavaConfig
from vlm_jax.data.assemble import KEPT_TEXTS, batch_of, order, pad, stream, viewer
from vlm_jax.data.conversation import Template, Tokenizer
from vlm_jax.data.encoding import Encoded
from vlm_jax.data.images import placeholder
from vlm_jax.data.pipelines import Held, instruction_text
from vlm_jax.data.sources import Instruction

# Programs of a run at most.
_SHAPES = 4


def first_fit(lengths: Sequence[int], width: int) -> list[list[int]]:
    """Rows of texts: each text, the longest first, goes into the first row that has room for it.

    Args:
        lengths: Of the texts; at most ``width``.
        width: Positions of a row.

    Returns:
        Each row's texts by their places in ``lengths``.
    """
    rows, room = [], []
    for text in sorted(range(len(lengths)), key=lambda text: -lengths[text]):
        row = next((row for row, left in enumerate(room) if left >= lengths[text]), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(width)
        rows[row].append(text)
        room[row] -= lengths[text]
    return rows


@dataclasses.dataclass(frozen=True)
class Packing:
    """How the conversations of a run lie in rows.

    Attributes:
        batch_size: Conversations of a step.
        width: Positions of a row.
        part: Rows of a microbatch at most; a multiple of ``devices``.
        images: Of a row at most, at least 1.
        devices: That rows are split over, evenly.
        shapes: Numbers of rows that a step may have, rising: each is a program of its own.
    """

    batch_size: int
    width: int
    part: int
    images: int
    devices: int
    shapes: tuple[int, ...]

    def rows(self, needed: int) -> int:
        """Rows of a step that needs so many, empty ones included."""
        for rows in self.shapes:
            if rows >= needed:
                return rows
        # What is read ahead beyond the end of the run is not in the plan.
        return _even(needed, self.part, self.devices)

    def parts(self, rows: int) -> int:
        """Microbatches of a step of so many rows."""
        return _parts(rows, self.part, self.devices)


def planned(
    lengths: Sequence[int],
    illustrated: Sequence[bool],
    batch_size: int,
    width: int,
    microbatches: int,
    devices: int,
    steps: int,
    seed: int,
) -> tuple[Packing, float]:
    """How a run's conversations are to be packed, and which share of its positions is padding then.

    Args:
        lengths: Of all conversations.
        illustrated: Whether they have an image.
        batch_size: Conversations of a step.
        width: Positions of a row.
        microbatches: Parts that a step of one conversation a row would be worked through in: no part is larger.
        devices: That rows are split over.
        steps: Of the run.
        seed: Of the order of the conversations.
    """
    part = _multiple(batch_size // microbatches, devices)
    images = width // min((length for length, has in zip(lengths, illustrated, strict=True) if has), default=width)
    texts, needed, real = order(len(lengths), seed), [], 0
    for first in range(0, steps * batch_size, batch_size):
        here = [lengths[texts[place]] for place in range(first, first + batch_size)]
        needed.append(len(first_fit(here, width)))
        real += sum(here)
    most = np.quantile(needed, np.arange(1, _SHAPES + 1) / _SHAPES, method="higher").tolist()
    shapes = tuple(sorted({_even(rows, part, devices) for rows in most}))
    packing = Packing(batch_size, width, part, images, devices, shapes)
    return packing, 1 - real / (width * sum(map(packing.rows, needed)))


def _parts(rows: int, part: int, devices: int) -> int:
    """The fewest equal parts of at most ``part`` rows, each a multiple of ``devices``."""
    return next(parts for parts in range(-(-rows // part), rows + 1) if rows % (parts * devices) == 0)


def _even(needed: int, part: int, devices: int) -> int:
    """The fewest rows that can be split into even parts, of which none is so small that there are twice as many."""
    rows = _multiple(needed, devices)
    while _parts(rows, part, devices) >= 2 * -(-rows // part):
        rows += devices
    return rows


def _multiple(number: int, of: int) -> int:
    """The smallest multiple that is not less."""
    return -(-number // of) * of


def packed_instruction_batches(
    records: Sequence[Instruction],
    tokenizer: Tokenizer,
    config: LlavaConfig,
    template: Template,
    packing: Packing,
    seed: int,
    held: Held = range,
) -> grain.IterDataset[Batch]:
    """The batches of :func:`vlm_jax.data.pipelines.instruction_batches`, and their stream's state, in packed rows.

    Of a batch that needs so many rows b is ``packing.rows`` of them, t ``packing.width`` and n ``packing.images``.

    Args:
        records: Conversations.
        tokenizer: A Hugging Face tokenizer.
        config: The model's.
        template: The words around the turns.
        packing: Of these conversations, in this order.
        seed: Of the order of the records.
        held: Rows that are made here.
    """
    view, text_of = viewer(config), instruction_text(tokenizer, config, template, packing.width)
    empty = placeholder(config.vision.image_size)

    @functools.lru_cache(KEPT_TEXTS)
    def encode(index: int) -> Encoded:
        return text_of(records[index])

    def sample(index: int, _: np.random.Generator) -> tuple[int, Encoded]:
        return index, encode(index)

    def row(samples: Sequence[tuple[int, Encoded]]) -> tuple[Encoded, UInt8[np.ndarray, "n h w 3"]]:
        # Those without an image are looked at as well: their questions must not show one.
        seen = [(records[index].image, view(records[index])) for index, _ in samples]
        images = [square for image, square in seen if image is not None]
        return joined([text for _, text in samples]), np.stack(images + [empty] * (packing.images - len(images)))

    def collate(samples: Sequence[tuple[int, Encoded]]) -> Batch:
        rows = first_fit([len(text) for _, text in samples], packing.width)
        rows += [[]] * (packing.rows(len(rows)) - len(rows))
        here = [[samples[place] for place in rows[number]] for number in held(len(rows))]
        batch = batch_of([row(texts) for texts in here], packing.width, "right", config.pad_token_id)
        numbers = [np.repeat(np.arange(len(texts)) + 1, [len(text) for _, text in texts]) for texts in here]
        return batch.replace(segments=pad(numbers, packing.width, "right", 0, np.int32))

    return stream(len(records), packing.batch_size, seed, sample, collate, range(packing.batch_size))


def joined(texts: Sequence[Encoded]) -> Encoded:
    """Texts one behind the other. The first token of each is predicted by nothing, as it is alone in a row."""
    nothing = Encoded(np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, bool))
    tokens, image, loss = (
        np.concatenate([getattr(text, name) for text in (nothing, *texts)])
        for name in ("tokens", "image_mask", "loss_mask")
    )
    begins = np.cumsum([0, *(len(text) for text in texts)])[:-1]
    loss[begins] = False
    return Encoded(tokens, image, loss)
