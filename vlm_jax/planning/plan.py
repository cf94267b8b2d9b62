"""Whether a step fits and how long it takes at best, without a compiler: shapes as the package lays them out, what a
pass keeps at one time, and the chips' published peaks.

Arguments are exact. Temporaries are the arrays of ``parallel.memory``, which exist in any case, times how many of each
live at one time, and what a layout adds. tpu/README.md compares both with what the TPU compiler says.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vlm_jax.config import PRESETS, LlavaConfig
from vlm_jax.models.attend import implementation_for
from vlm_jax.parallel import memory
from vlm_jax.planning import costs
from vlm_jax.planning.chips import Topology
from vlm_jax.planning.layouts import Layout, abstract_mesh, split_rows_of
from vlm_jax.planning.steps import Case, base_shapes, bytes_on_a_chip, step_of
from vlm_jax.train.optim import TrainState

# Scores of one block that live at one time: before and after the softmax, and a third one in the backward pass or for
# the product with the values. All in float32.
_SCORES = 3
# Of a block that is worked through, beside its input: norms, queries, keys, values, sums; gate, up, their product.
_STATES, _HIDDEN = 8, 4
# Positions whose logits exist at one time, in float32, and how many such arrays (train/losses.py).
_CHUNK, _LOGITS = 256, 2
# What the backward pass keeps of a block besides its input: states, hidden units, scores.
_KEPT = {"block": (0, 0, 0), "dots": (5, 2, 0), "none": (12, 4, 2)}


@dataclasses.dataclass(frozen=True)
class Plan:
    """Of one step on one chip.

    Attributes:
        arguments, temporaries: Bytes by what they are for; temporaries of the phase that takes most.
        limit: Bytes that a program may use.
        cost: Of a step, on one chip.
        seconds: Of a step at the chip's peaks: no step is faster.
        bound: ``compute``, ``memory`` or ``network``: what most of that time goes to.
    """

    arguments: Mapping[str, int]
    temporaries: Mapping[str, int]
    limit: int
    cost: costs.Cost
    seconds: float
    bound: str

    @property
    def total(self) -> int:
        return sum(self.arguments.values()) + sum(self.temporaries.values())

    @property
    def fits(self) -> bool:
        return self.total <= self.limit


def plan(case: Case, topology: Topology, layout: Layout) -> Plan:
    """A step of the package on these chips.

    Args:
        case: The step, at the sizes of its recipe and its changes.
        topology: The chips.
        layout: How they are laid out; rows divide by it.
    """
    asked = _Asked(case, layout, topology)
    phases = PHASES[case.step](asked)
    largest = max((needs for _, needs in phases), key=lambda needs: sum(needs.values()))
    spent = [cost for cost, _ in phases]
    seconds, bound = costs.roofline(spent, topology.chip)
    return Plan(
        arguments=asked.arguments(),
        temporaries=largest,
        limit=topology.chip.memory,
        cost=sum(spent, costs.Cost()),
        seconds=seconds,
        bound=bound,
    )


Phase = tuple[costs.Cost, dict[str, int]]


@dataclasses.dataclass(frozen=True)
class _Asked:
    """A case on a layout."""

    case: Case
    layout: Layout
    topology: Topology

    @property
    def config(self) -> LlavaConfig:
        return self.case.config

    @property
    def sizes(self) -> Mapping[str, Any]:
        return self.case.sizes

    @property
    def chips(self) -> int:
        data, fsdp, tensor = self.layout
        return data * fsdp * tensor

    @property
    def tensor(self) -> int:
        return self.layout[2]

    @property
    def weights(self) -> costs.Weights:
        base = base_shapes(PRESETS[self.case.preset], self.case.kind)
        blocks = memory.bytes_of(base["language"]["blocks"])
        ends = memory.bytes_of([base["language"]["head"], base["projector"], base["vision"]])
        return costs.Weights(self.config, self.layout, blocks, ends)

    @property
    def adapted(self) -> bool:
        """Whether the blocks have adapters."""
        return self.case.step not in ("sft projector", "sft full")

    def rows(self, number: int) -> float:
        """Of a batch those on one chip."""
        return number / (self.layout[0] * self.layout[1])

    def arguments(self) -> dict[str, int]:
        base, state, *others = step_of(self.case, abstract_mesh(self.layout)).arguments
        what = "what is trained, with its moments" if isinstance(state, TrainState) else "adapters"
        return {
            "weights": bytes_on_a_chip(base),
            what: bytes_on_a_chip(state),
            "other roles and the batch": bytes_on_a_chip(others),
        }

    def gathered(self) -> dict[str, int]:
        """Kernels that are put together from their parts, or from fewer bits, where they are used: one block's, and the
        next one's on its way; and the head's."""
        language = self.config.language
        whole = self.layout[1] == 1 and self.case.kind == "bfloat16"
        size = memory.itemsize(self.config)
        block = 0 if whole else size * costs.block_numbers(self.config) // self.tensor
        head = 0 if self.layout[1] == 1 else size * language.width * language.vocab_size // self.tensor
        return {"kernels of a block": block, "kernel of the head": head}

    def decoded_from(self) -> dict[str, int]:
        """The second copy of weights that steps of decoding read: split in another way, or on a GPU layer by layer."""
        parts = self.layout[1] * self.tensor
        copied = self.layout[1] > 1 or self.topology.layout is None
        return {"weights as decoding reads them": self.weights.blocks // parts if copied else 0}

    def inside(self, rows: costs.Number, width: int) -> dict[str, int]:
        """Of the block that is worked through."""
        language = self.config.language
        states = rows * width * (_STATES * language.width + _HIDDEN * language.mlp_width // self.tensor)
        states *= memory.itemsize(self.config)
        return {"a block's states": int(states), "attention scores": int(_SCORES * self.scores(rows, width))}

    def writes_scores(self, head_width: int) -> bool:
        """Whether attention on these chips holds its scores."""
        platform = "tpu" if self.topology.layout else "gpu"
        return implementation_for(self.config.attention, platform, self.config.dtype, head_width) == "xla"

    def scores(self, rows: costs.Number, width: int) -> float:
        """One block's attention scores in float32, where there are any."""
        language = self.config.language
        return self.writes_scores(language.head_width) * 4 * rows * language.heads * width**2 / self.tensor

    def scores_traffic(self, rows: costs.Number, width: int) -> costs.Cost:
        """Bytes of all blocks' scores: written, read by the softmax, and read once more."""
        return costs.Cost(traffic=3 * self.config.language.layers * self.scores(rows, width))

    def tower(self, rows: costs.Number) -> dict[str, int]:
        """Pictures as numbers, and the block of the tower that is worked through."""
        vision = self.config.vision
        tokens = vision.patches + 1
        states = tokens * (_STATES * vision.width + 2 * vision.mlp_width // self.tensor) * memory.itemsize(self.config)
        scores = (
            self.writes_scores(vision.width // vision.heads) * _SCORES * 4 * vision.heads * tokens**2 // self.tensor
        )
        return {"the tower": int(rows * (3 * 4 * vision.image_size**2 + states + scores))}

    def logits(self, rows: costs.Number) -> dict[str, int]:
        chunk = rows * _CHUNK * self.config.language.vocab_size * 4 // self.tensor
        return {"logits of a chunk": int(_LOGITS * chunk)}

    # Phases.

    def reads(self, number: int, width: int, heads: int) -> Phase:
        """A forward pass over so many rows."""
        rows, weights = self.rows(number), self.weights
        cost = weights.read() + costs.forward(weights, rows, width, adapted=True, heads=heads)
        cost += costs.encode(weights, rows) + self.scores_traffic(rows, width)
        needs = {**self.inside(rows, width), **self.gathered(), **(self.logits(rows) if heads > 1 else {})}
        return cost, needs

    def trains(self, number: int, width: int, heads: int, passes: int, trained: int) -> Phase:
        """Gradients of so many rows: ``passes`` forward passes, each recomputed as remat says, and its backward pass.

        Args:
            number: Rows.
            width: Positions of a row.
            heads: Positions that logits are wanted of.
            passes: 1, or with two roles 2.
            trained: Weights that are trained, of one pass.
        """
        config, rows, weights = self.config, self.rows(number), self.weights
        tokens = rows * width
        attention = costs.attention(weights, rows, width, width)
        blocks = costs.forward(weights, rows, width, adapted=self.adapted, heads=0)
        head = costs.head(weights, rows * heads)
        # Remat: all of a block but its last projection, whose output nothing backward asks for; or attention alone.
        whole = blocks + costs.last_projections(weights, tokens).times(-1)
        recomputed = {"block": whole, "dots": attention, "none": costs.Cost()}[config.remat]
        # Backward, the gradient of what goes into a product costs as much as the product, and that of a weight, or of
        # attention's other side, as much again. Logits are always worked out twice.
        backward = blocks + attention + costs.Cost(flops=2 * trained * tokens / self.tensor) + head
        cost = blocks + recomputed + backward + head.times(2) + weights.read().times(2) + costs.encode(weights, rows)
        cost += self.scores_traffic(rows, width).times(2)
        kept = memory.training(config, max(int(rows), 1), width, 1, 0, self.tensor)["activations"]
        states, hidden, squares = _KEPT[config.remat]
        language = config.language
        more = rows * width * (states * language.width + hidden * language.mlp_width / self.tensor)
        more *= memory.itemsize(config)
        more += squares * self.scores(rows, width)
        needs = {
            "what the backward pass keeps": passes * int(kept + language.layers * more),
            **self.inside(rows, width),
            **self.gathered(),
            **self.logits(rows),
        }
        return cost.times(passes), needs

    def state_numbers(self) -> int:
        """Bytes of what is trained, on a chip, without its moments."""
        state = step_of(self.case, abstract_mesh(self.layout)).arguments[1]
        return bytes_on_a_chip(state.params)


def _training(asked: _Asked, number: int, width: int, heads: int, parts: int, passes: int = 1) -> list[Phase]:
    """A whole step in ``parts`` parts; gradients add up beside those of the part that is worked on."""
    full = asked.case.step == "sft full"
    each = costs.adapter_numbers(asked.config) if asked.adapted else full * costs.block_numbers(asked.config)
    trained = asked.config.language.layers * each
    cost, needs = asked.trains(number // parts, width, heads, passes, trained)
    gradients = asked.state_numbers()
    needs["gradients"] = gradients * (2 if parts > 1 else 1)
    if full:
        language, size = asked.config.language, memory.itemsize(asked.config)
        # The masters are float32; what is computed with is a copy in fewer bits.
        needs["weights as they are used"] = gradients * size // 4
        # Before they are summed over the chips: a block's, and in float32 those of table and head.
        block = size * costs.block_numbers(asked.config)
        needs["gradients of a part"] = (block + 2 * 4 * language.vocab_size * language.width) // asked.tensor
    return [(cost.times(parts), needs)]


def _sft(asked: _Asked) -> list[Phase]:
    sizes = asked.sizes
    return _training(asked, sizes["batch_size"], sizes["max_length"], sizes["max_length"], sizes["microbatches"])


def _reward(asked: _Asked) -> list[Phase]:
    sizes = asked.sizes
    return _training(asked, 2 * sizes["batch_size"], sizes["max_length"], 0, sizes["microbatches"])


def _update(asked: _Asked) -> list[Phase]:
    sizes = asked.sizes
    width, answer = sizes["prompt_length"] + sizes["max_new_tokens"], sizes["max_new_tokens"]
    ((cost, needs),) = _training(asked, split_rows_of(sizes), width, answer, sizes["microbatches"], passes=2)
    return [(cost.times(sizes["epochs"] * sizes["minibatches"]), needs)]


def _answers(asked: _Asked, number: int, width: int, new_tokens: int) -> list[Phase]:
    rows = asked.rows(number)
    slots = width + new_tokens
    cache = memory.answering(asked.config, max(int(rows), 1), width, new_tokens, asked.tensor)
    kept = {name: cache[name] for name in ("keys and values", "logits")}
    first, needs = asked.reads(number, width, 1)
    needs |= asked.tower(rows)
    # Weights are split over tensor and fsdp then; what a chip multiplies are its parts and all rows of its copy.
    data, fsdp, tensor = asked.layout
    spread = _Asked(asked.case, (data, 1, tensor * fsdp), asked.topology)
    weights = spread.weights
    each = weights.read() + costs.forward(weights, rows * fsdp, 1, adapted=True, heads=1, seen=slots)
    return [(first, needs | kept), (each.times(new_tokens - 1), spread.gathered() | asked.decoded_from() | kept)]


def _rollout(asked: _Asked) -> list[Phase]:
    sizes = asked.sizes
    rows, answer, parts = sizes["batch_size"], sizes["max_new_tokens"], sizes["microbatches"]
    width = sizes["prompt_length"] + answer
    likelihood, one = asked.reads(rows // parts, width, answer)
    value, two = asked.reads(rows // parts, width, 0)
    score, three = asked.reads(rows // parts, width + sizes["suffix_length"], 0)
    measuring = [(likelihood.times(2 * parts), one), (value.times(parts), two), (score.times(parts), three)]
    drawn = sizes["rollout_parts"]
    sampling = _answers(asked, rows // drawn, sizes["prompt_length"], answer)
    return [*((cost.times(drawn), needs) for cost, needs in sampling), *measuring]


def _score(asked: _Asked) -> list[Phase]:
    sizes = asked.sizes
    width = sizes["prompt_length"] + sizes["max_new_tokens"] + sizes["suffix_length"]
    return [asked.reads(sizes["batch_size"] // sizes["microbatches"], width, 0)]


def _generate(asked: _Asked) -> list[Phase]:
    return _answers(asked, asked.sizes["batch_size"], asked.sizes["max_length"], asked.sizes["max_new_tokens"])


PHASES = {
    "sft projector": _sft,
    "sft lora": _sft,
    "sft full": _sft,
    "reward": _reward,
    "rollout": _rollout,
    "ppo": _update,
    "score": _score,
    "generate": _generate,
}
