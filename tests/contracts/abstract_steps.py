"""The steps of ``vlm_jax.planning.steps`` on 64 devices that nobody has to own."""

from typing import Any

from jax.sharding import AbstractMesh, AxisType

from vlm_jax.config import LlavaConfig
from vlm_jax.parallel.mesh import AXES
from vlm_jax.planning import steps
from vlm_jax.planning.steps import Case, Step

MESH = AbstractMesh((2, 8, 4), AXES, axis_types=(AxisType.Auto,) * 3)


def step_of(case: Case) -> Step:
    return steps.step_of(case, MESH)


def base(config: LlavaConfig, kind: str) -> Any:
    """Frozen weights where the table of rules puts them."""
    return steps.by_rule(MESH, steps.base_shapes(config, kind))


def measured(case: Case) -> Any:
    """Shapes of what the update is fed with."""
    return steps.measured(steps.Placed(case, MESH))
