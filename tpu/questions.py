"""What is asked of the compiler, the most important first: each a step of a preset, on a slice, over a kind of base."""

import dataclasses
from collections.abc import Iterator, Mapping

from vlm_jax.planning.chips import topology_named
from vlm_jax.planning.layouts import Layout, default_layout, microbatch_choices, split_rows_of
from vlm_jax.planning.steps import Case, sizes_of

PRESETS = ("llava-1.5-7b", "llava-1.5-13b", "llava-rlhf-7b", "llava-rlhf-13b")
STEPS = ("sft projector", "sft lora", "sft full", "reward", "rollout", "ppo", "score")
KINDS = ("bfloat16", "int8", "nf4")
SLICES = ("v5e-1", "v5e-4", "v5e-8", "v5e-16", "v5e-64", "v5e-256", "v4-8", "v5p-8", "v6e-8", "v6e-64")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What has one answer in the table: the largest microbatch with which a step fits."""

    preset: str
    step: str
    kind: str
    topology: str
    remat: str = "block"

    @property
    def name(self) -> str:
        return " / ".join(dataclasses.astuple(self))

    @property
    def layout(self) -> Layout:
        return default_layout(topology_named(self.topology).count, split_rows_of(sizes_of(self.preset, self.step)))

    @property
    def choices(self) -> list[int]:
        """Numbers of microbatches, the fewest first."""
        return microbatch_choices(split_rows_of(sizes_of(self.preset, self.step)), self.layout)


@dataclasses.dataclass(frozen=True)
class Question:
    """A cell with so many microbatches: one program."""

    cell: Cell
    microbatches: int

    @property
    def case(self) -> Case:
        changes = {"microbatches": self.microbatches, "remat": self.cell.remat}
        if self.cell.step == "rollout":
            changes["rollout_parts"] = self.microbatches
        return Case(self.cell.preset, self.cell.step, self.cell.kind, tuple(changes.items()))

    @property
    def name(self) -> str:
        """The key of its record."""
        return f"{self.cell.name} / {'x'.join(map(str, self.cell.layout))} / {self.microbatches} parts"

    @property
    def rows(self) -> int:
        """Of one microbatch; a rollout is split whole, both where it draws and where it measures."""
        sizes = self.case.sizes
        rows = sizes["batch_size"] if self.cell.step == "rollout" else split_rows_of(sizes)
        return rows // self.microbatches


def cells() -> list[Cell]:
    """All of them, the most important first."""
    found = dict.fromkeys((*_first(), *_all()))
    return list(found)


def _first() -> Iterator[Cell]:
    """What people have, and what the paper did."""
    for topology in ("v5e-16", "v4-8"):
        for step in ("ppo", "rollout"):
            yield Cell("llava-rlhf-13b", step, "bfloat16", topology)
    for kind in ("int8", "nf4"):
        for step in ("ppo", "rollout"):
            yield Cell("llava-rlhf-7b", step, kind, "v5e-1")
    for topology in ("v5e-16", "v5e-8"):
        for step in ("sft lora", "sft full", "reward"):
            yield Cell("llava-1.5-7b", step, "bfloat16", topology)
    # A reward model of 13B at 336 pixels over a policy of 7B at 224.
    for topology in ("v5e-16", "v4-8"):
        yield Cell("llava-rlhf-13b", "score", "bfloat16", topology)
        yield from (Cell("llava-rlhf-7b", step, "bfloat16", topology) for step in ("ppo", "rollout"))
    yield Cell("llava-1.5-7b", "sft projector", "bfloat16", "v5e-8")
    yield Cell("llava-1.5-7b", "sft lora", "int8", "v5e-1")
    for remat in ("dots", "none"):
        yield Cell("llava-1.5-7b", "sft lora", "bfloat16", "v5e-16", remat)


def _all() -> Iterator[Cell]:
    # Sizes before kinds: most questions about a slice are about plain weights.
    for kind in KINDS:
        for topology in ("v5e-8", "v5e-16", "v5p-8", "v6e-8", "v4-8", "v5e-4", "v5e-1", "v5e-64", "v6e-64", "v5e-256"):
            for preset in PRESETS:
                for step in STEPS:
                    if kind == "bfloat16" or step != "sft full":
                        yield Cell(preset, step, kind, topology)


def next_question(cell: Cell, fits: Mapping[str, bool], guess: int) -> Question | None:
    """What to ask of a cell after these answers, from a first guess on; None where its largest microbatch is known.

    Args:
        cell: Of the table.
        fits: By the names of questions.
        guess: Number of microbatches to begin with.
    """
    choices = cell.choices
    known = {number: fits[name] for number in choices if (name := Question(cell, number).name) in fits}
    if not known:
        return Question(cell, guess)
    # More parts are smaller ones: what fits in few fits in more.
    too_few = max((number for number, fit in known.items() if not fit), default=0)
    enough = min((number for number, fit in known.items() if fit), default=choices[-1] + 1)
    between = [number for number in choices if too_few < number < enough]
    if not between:
        return None
    return Question(cell, between[-1] if enough <= choices[-1] else between[0])


def answer_of(cell: Cell, fits: Mapping[str, bool]) -> tuple[Question, bool] | None:
    """The question that says most of a cell: that with the largest microbatch that fits, else with the smallest that
    was tried; and whether nothing is left to ask. None where nothing was asked."""
    asked = [Question(cell, number) for number in cell.choices if Question(cell, number).name in fits]
    if not asked:
        return None
    best = next((question for question in asked if fits[question.name]), asked[-1])
    return best, next_question(cell, fits, best.microbatches) is None
