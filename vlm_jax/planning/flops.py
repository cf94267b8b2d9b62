"""Operations that a step needs, from the config alone: what MFU and HFU are made of.

The convention. Products count two operations a multiplication. With N the weights of the decoder's blocks and head:
2 N a token forward; 4 N forward and backward over a frozen base, whose weights need no gradient; 6 N where they are
trained; adapters three times their own. Attention is halved, since half of it lies behind the causal mask. The tower
and the projector read an image once, forward. Embeddings, norms and softmaxes count nothing.

Model FLOPs (MFU) are those of the real tokens. Hardware FLOPs (HFU) are those of all positions, padding included, and
of what the backward pass works out a second time. As in PaLM (Chowdhery et al. 2022, appendix B) but for the frozen
base and the halved attention.
"""

import dataclasses
from typing import Literal

import numpy as np
from jaxtyping import Bool, Int

from vlm_jax.config import LlavaConfig
from vlm_jax.planning import costs
from vlm_jax.planning.chips import Number


@dataclasses.dataclass(frozen=True)
class Read:
    """What a pass reads.

    Attributes:
        tokens: Positions of all rows.
        squares: Sum over rows of their squared lengths: attention goes by them.
        images: Rows with a picture.
    """

    tokens: Number
    squares: Number
    images: Number


def real(
    config: LlavaConfig,
    attention_mask: Bool[np.ndarray, "b t"],
    image_mask: Bool[np.ndarray, "b t"],
    segments: Int[np.ndarray, "b t"] | None = None,
) -> Read:
    """Of a batch without its padding; texts that are packed into one row do not see each other."""
    lengths = attention_mask.sum(1) if segments is None else text_lengths(segments)
    return of_lengths(lengths, int(image_mask.sum()) // config.vision.patches)


def text_lengths(segments: Int[np.ndarray, "b t"]) -> Int[np.ndarray, " n"]:
    """Of all texts of packed rows (``Batch.segments``)."""
    most = int(segments.max()) + 1
    counts = np.stack([np.bincount(row, minlength=most) for row in segments])[:, 1:]
    return counts[counts > 0]


def of_lengths(lengths: Int[np.ndarray, " b"], images: Number) -> Read:
    """Of rows of these lengths."""
    lengths = lengths.astype(np.float64)
    return Read(float(lengths.sum()), float(np.square(lengths).sum()), images)


def padded(rows: int, width: int, images: int | None = None) -> Read:
    """Of a batch as the devices get it: a row without a picture has an empty one, a packed batch has ``images``."""
    return Read(rows * width, rows * width**2, rows if images is None else images)


@dataclasses.dataclass(frozen=True)
class Forward:
    """Operations of a forward pass by where they are spent."""

    blocks: Number
    adapters: Number
    attention: Number
    head: Number
    tower: Number

    @property
    def total(self) -> Number:
        return self.blocks + self.adapters + self.attention + self.head + self.tower


def forward(config: LlavaConfig, read: Read, logits: Number, adapted: bool = True) -> Forward:
    """A pass of the whole model.

    Args:
        config: Its shape.
        read: What goes in.
        logits: Positions whose logits are wanted.
        adapted: Whether it has an adapter.
    """
    # Formulas of a single chip; how weights are stored plays no part.
    weights, layers = costs.Weights(config, (1, 1, 1), 0, 0), config.language.layers
    adapters = 2 * layers * costs.adapter_numbers(config) * read.tokens
    return Forward(
        blocks=2 * layers * costs.block_numbers(config) * read.tokens,
        adapters=adapters if adapted else 0.0,
        attention=costs.attention(weights, read.squares, 1, 1).flops / 2,
        head=costs.head(weights, logits).flops,
        tower=costs.encode(weights, read.images).flops,
    )


def training(config: LlavaConfig, read: Read, logits: Number, trainable: Literal["lora", "full"]) -> Number:
    """Model FLOPs of gradients: forward, backward."""
    passes = forward(config, read, logits, adapted=trainable == "lora")
    weights = passes.blocks + passes.head
    backward = weights * (2 if trainable == "full" else 1) + 2 * (passes.adapters + passes.attention)
    return passes.total + backward


def recomputed(config: LlavaConfig, read: Read, logits: Number, trainable: Literal["lora", "full"]) -> Number:
    """What a backward pass works out again as ``remat`` says: whole blocks, attention alone, or nothing; and logits,
    which are never kept."""
    passes = forward(config, read, logits, adapted=trainable == "lora")
    blocks = passes.blocks + passes.adapters + passes.attention
    return {"block": blocks, "dots": passes.attention, "none": 0.0}[config.remat] + passes.head


def rollout_and_update(
    config: LlavaConfig, prompts: Read, suffix_tokens: Number, rows: int, length: Number, epochs: int
) -> Number:
    """Model FLOPs of a step of PPO: answers are written once, read by policy, reference, value and reward model, and
    both that are trained learn from them in every epoch. Images are read once.

    Args:
        config: Of the model.
        prompts: What answers are given to.
        suffix_tokens: Of all evaluation turns.
        rows: Answers.
        length: Their mean number of tokens.
        epochs: Passes over them.
    """
    answers = rows * length
    # As if all answers were as long as their mean.
    squares = prompts.squares + 2 * prompts.tokens * length + answers * length
    whole = Read(prompts.tokens + answers, squares, 0)
    judged = dataclasses.replace(whole, tokens=whole.tokens + suffix_tokens)
    seen = forward(config, Read(0, 0, prompts.images), 0).tower
    # The policy writes and reads, the reference reads; the value model and the reward model need no logits.
    told, silent, scored = (
        forward(config, read, logits).total for read, logits in ((whole, answers), (whole, 0), (judged, 0))
    )
    learnt = sum(training(config, whole, logits, "lora") for logits in (answers, 0))
    return seen + 3 * told + silent + scored + epochs * learnt
