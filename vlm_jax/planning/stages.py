"""Stages of the road as people name them, each one step or several that share the chips one after the other."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vlm_jax.errors import require_parts
from vlm_jax.planning.chips import TOPOLOGIES, Topology
from vlm_jax.planning.costs import Cost
from vlm_jax.planning.layouts import Layout, default_layout, microbatch_choices, require_layout, split_rows_of
from vlm_jax.planning.plan import Plan, plan
from vlm_jax.planning.steps import BASES, Case

# Stage -> steps. That of recipes, but for the projector's alone, which has none.
STAGES: dict[str, tuple[str, ...]] = {
    "sft-projector": ("sft projector",),
    "sft-lora": ("sft lora",),
    "sft-full": ("sft full",),
    "reward": ("reward",),
    "ppo": ("rollout", "ppo"),
    "answer": ("generate",),
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """A stage of a preset over a kind of base, on a slice.

    Attributes:
        preset, stage, kind: See :data:`STAGES` and ``planning.steps.BASES``.
        topology: Chips.
        layout: Mesh; left out: what divides (``planning.layouts.default_layout``).
        changes: Figures that go before the recipe's.
    """

    preset: str
    stage: str
    kind: str
    topology: Topology
    layout: Layout | None = None
    changes: tuple[tuple[str, Any], ...] = ()

    @property
    def cases(self) -> list[Case]:
        return [Case(self.preset, step, self.kind, self.changes) for step in STAGES[self.stage]]

    @property
    def sizes(self) -> Mapping[str, Any]:
        return self.cases[-1].sizes

    @property
    def mesh(self) -> Layout:
        """The layout, or the one that is chosen."""
        part = split_rows_of(self.sizes) // self.sizes.get("microbatches", 1)
        drawn = self.sizes["batch_size"] // self.sizes.get("rollout_parts", 1)
        return self.layout or default_layout(self.topology.count, math.gcd(part, drawn))

    def with_changes(self, **figures: Any) -> "Asked":
        return dataclasses.replace(self, changes=tuple({**dict(self.changes), **figures}.items()))


def check(asked: Asked) -> None:
    """Raises:
    InputError: The rows, the chips or the model do not divide as they are laid out.
    """
    require_parts(asked.sizes["batch_size"], asked.sizes.get("minibatches", 1), "minibatches")
    require_parts(asked.sizes["batch_size"], asked.sizes.get("rollout_parts", 1), "rollout parts")
    require_parts(split_rows_of(asked.sizes), asked.sizes.get("microbatches", 1), "microbatches")
    for case in asked.cases:
        require_layout(case, asked.mesh, asked.topology.count)


def stage_plan(asked: Asked) -> Plan:
    """Memory of the step that takes most, time of all of them."""
    plans = [plan(case, asked.topology, asked.mesh) for case in asked.cases]
    largest, longest = max(plans, key=lambda one: one.total), max(plans, key=lambda one: one.seconds)
    cost, seconds = sum((one.cost for one in plans), Cost()), sum(one.seconds for one in plans)
    return dataclasses.replace(largest, cost=cost, seconds=seconds, bound=longest.bound)


def remedies(asked: Asked) -> list[str]:
    """What makes a stage fit that does not, each alone, as an option of the command line; the least of each."""
    return list(_changes(asked))


def _changes(asked: Asked) -> Iterator[str]:
    for figure, rows in (("rollout_parts", asked.sizes["batch_size"]), ("microbatches", split_rows_of(asked.sizes))):
        if figure in asked.sizes:
            choices = microbatch_choices(rows, asked.mesh)
            more = [asked.with_changes(**{figure: n}) for n in choices if n > asked.sizes[figure]]
            if (split := _first_that_fits(more)) is not None:
                yield f"--{figure.replace('_', '-')} {split.sizes[figure]}"
    kinds = BASES[BASES.index(asked.kind) + 1 :] if asked.stage != "sft-full" else ()
    if (fewer_bits := _first_that_fits([dataclasses.replace(asked, kind=kind) for kind in kinds])) is not None:
        yield f"--base {fewer_bits.kind}"
    larger = [
        dataclasses.replace(asked, topology=topology, layout=None)
        for topology in sorted(TOPOLOGIES.values(), key=lambda topology: topology.count)
        if topology.chip is asked.topology.chip and topology.count > asked.topology.count
    ]
    if (chips := _first_that_fits(larger)) is not None:
        yield f"--topology {chips.topology.name}"


def _first_that_fits(asked: Sequence[Asked]) -> Asked | None:
    return next((one for one in asked if stage_plan(one).fits), None)
