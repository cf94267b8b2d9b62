"""What a forward pass costs one chip at the very best: operations, bytes of its memory, bytes from other chips.

Only what grows with the model or the rows is counted. Products count two operations a multiplication; attention is
counted whole, as the default attention works it out, without leaving out what the causal mask hides.
"""

import dataclasses
from collections.abc import Iterable

from vlm_jax.config import LlavaConfig
from vlm_jax.parallel.memory import itemsize
from vlm_jax.planning.chips import Chip, Number
from vlm_jax.planning.layouts import Layout

_FLOAT32 = 4


@dataclasses.dataclass(frozen=True)
class Cost:
    """Of one chip, one after the other.

    Attributes:
        flops: Operations of matrix products.
        traffic: Bytes to and from its memory.
        network: Bytes from other chips.
    """

    flops: Number = 0
    traffic: Number = 0
    network: Number = 0

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.flops + other.flops, self.traffic + other.traffic, self.network + other.network)

    def times(self, count: Number) -> "Cost":
        return Cost(self.flops * count, self.traffic * count, self.network * count)

    def seconds(self, chip: Chip) -> dict[str, float]:
        """Time at the chip's peak by what takes it."""
        return {
            "compute": self.flops / chip.flops,
            "memory": self.traffic / chip.bandwidth,
            "network": self.network / chip.network,
        }


def roofline(phases: Iterable[Cost], chip: Chip) -> tuple[float, str]:
    """Least seconds of phases that follow one another, each as long as what takes longest in it, and what that is in
    most of the time."""
    total: dict[str, float] = {}
    for phase in phases:
        bound, seconds = max(phase.seconds(chip).items(), key=lambda item: item[1])
        total[bound] = total.get(bound, 0.0) + seconds
    return sum(total.values()), max(total, key=total.__getitem__)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A base as it is stored and laid out.

    Attributes:
        config: Its shape.
        layout: Of the mesh.
        blocks: Stored bytes of all decoder blocks, on all chips together.
        ends: Those of head, projector and tower.
    """

    config: LlavaConfig
    layout: Layout
    blocks: int
    ends: int

    @property
    def tensor(self) -> int:
        return self.layout[2]

    def read(self) -> Cost:
        """Once from the first block to the head: parts of other chips come over the network, are written, and read."""
        whole = (self.blocks + self.ends) / self.tensor
        fsdp = self.layout[1]
        if fsdp == 1:
            return Cost(traffic=whole)
        return Cost(traffic=2 * whole, network=whole * (fsdp - 1) / fsdp)


def block_numbers(config: LlavaConfig) -> int:
    """Weights of one decoder block's projections."""
    language = config.language
    heads, keys = language.heads * language.head_width, language.kv_heads * language.head_width
    return language.width * (2 * heads + 2 * keys + 3 * language.mlp_width)


def adapter_numbers(config: LlavaConfig) -> int:
    """Weights of one block's adapter."""
    language = config.language
    heads, keys = language.heads * language.head_width, language.kv_heads * language.head_width
    sides = 2 * (language.width + heads) + 2 * (language.width + keys) + 3 * (language.width + language.mlp_width)
    return config.lora.rank * sides


def forward(weights: Weights, rows: Number, width: int, *, adapted: bool, heads: int, seen: int | None = None) -> Cost:
    """A pass over the decoder's blocks and its head.

    Args:
        weights: Of the base.
        rows: Of one chip.
        width: New positions of a row.
        adapted: Whether there is an adapter.
        heads: Positions of a row that logits are wanted of.
        seen: Positions that attention looks at; left out: the new ones.
    """
    language, size = weights.config.language, itemsize(weights.config)
    seen = width if seen is None else seen
    tokens = rows * width
    numbers = block_numbers(weights.config) + (adapter_numbers(weights.config) if adapted else 0)
    flops = 2 * language.layers * numbers * tokens
    # Of each block: inputs and outputs of its projections and norms, and the keys and values that are looked at.
    states = tokens * (10 * language.width + 4 * language.mlp_width / weights.tensor) * size
    keys = 2 * rows * seen * language.kv_heads * language.head_width * size / weights.tensor
    products = Cost(flops / weights.tensor, language.layers * (states + keys), _sums(weights, tokens))
    return products + attention(weights, rows, width, seen) + head(weights, rows * heads)


def head(weights: Weights, tokens: Number) -> Cost:
    """Logits of so many positions."""
    language = weights.config.language
    return Cost(2 * language.width * language.vocab_size * tokens / weights.tensor)


def attention(weights: Weights, rows: Number, width: int, seen: int) -> Cost:
    """The two products of every block's attention."""
    language = weights.config.language
    return Cost(4 * language.layers * rows * width * seen * language.heads * language.head_width / weights.tensor)


def last_projections(weights: Weights, tokens: Number) -> Cost:
    """The products with which blocks end."""
    language = weights.config.language
    return Cost(2 * language.layers * tokens * language.width * language.mlp_width / weights.tensor)


def _sums(weights: Weights, tokens: Number) -> Number:
    """Bytes from others where tensor splits the blocks: two sums a block, each sent twice round."""
    language, tensor = weights.config.language, weights.tensor
    size = itemsize(weights.config)
    return 4 * language.layers * tokens * language.width * size * (tensor - 1) / tensor


def encode(weights: Weights, rows: Number) -> Cost:
    """Images through tower and projector."""
    config = weights.config
    vision, width = config.vision, config.language.width
    tokens = vision.patches + 1
    block = vision.width * (4 * vision.width + 2 * vision.mlp_width)
    attention = 4 * tokens * tokens * vision.width
    projector = vision.width * width + (width * width if config.projector == "mlp" else 0)
    pixels = 3 * vision.patch_size**2 * vision.width
    flops = vision.blocks_run * (2 * block * tokens + attention) + 2 * (projector + pixels) * vision.patches
    return Cost(flops=rows * flops / weights.tensor)
