"""How a step is laid out on a number of chips where nobody says it, and into which parts its rows can be split."""

import math
from collections.abc import Mapping
from typing import Any

from jax.sharding import AbstractMesh, AxisType

from vlm_jax.errors import InputError
from vlm_jax.parallel.mesh import AXES
from vlm_jax.planning.steps import Case

Layout = tuple[int, int, int]


def split_rows_of(sizes: Mapping[str, Any]) -> int:
    """Rows that ``microbatches`` split: a whole batch, or of PPO a minibatch."""
    return sizes["batch_size"] // sizes.get("minibatches", 1)


def default_layout(chips: int, rows: int) -> Layout:
    """All by fsdp, as far as the rows divide by it; what is left by tensor."""
    fsdp = math.gcd(chips, rows)
    return 1, fsdp, chips // fsdp


def microbatch_choices(rows: int, layout: Layout) -> list[int]:
    """Numbers of parts, the fewest first, of which every device gets whole rows; halves of halves only."""
    parts = layout[0] * layout[1]
    powers = (1 << power for power in range(rows.bit_length()))
    return [count for count in powers if rows % count == 0 and rows // count % parts == 0]


def abstract_mesh(layout: Layout) -> AbstractMesh:
    """A mesh that has a shape and no devices."""
    return AbstractMesh(layout, AXES, axis_types=(AxisType.Auto,) * 3)


def require_layout(case: Case, layout: Layout, chips: int) -> None:
    """Raises:
    InputError: The mesh is not that many chips, or rows do not divide by it.
    """
    data, fsdp, tensor = layout
    written = f"a mesh of {data} x {fsdp} x {tensor} (data x fsdp x tensor)"
    if data * fsdp * tensor != chips:
        raise InputError(f"{written} on {chips} chips", f"{chips} in all")
    heads = case.config.language.heads
    if heads % tensor:
        raise InputError(f"{heads} heads on {written}", "tensor to divide them")
    sizes = case.sizes
    rows, parts = split_rows_of(sizes), sizes.get("microbatches", 1)
    for number, count, what in (
        (rows, parts, "microbatches"),
        (sizes["batch_size"], sizes.get("rollout_parts", 1), "rollout parts"),
    ):
        if number % (count * data * fsdp):
            found = f"{number} rows in {count} {what} on {written}"
            raise InputError(found, f"{what} of a multiple of {data * fsdp} rows (data x fsdp)")
