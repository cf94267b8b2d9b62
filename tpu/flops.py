"""Operations of a step's matrix products, counted in what jax has traced: what is worked out twice counts twice."""

import math
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn


def flops(traced: jax.stages.Traced, turns: int) -> int:
    """Two operations a multiplication, on all devices together. Nothing but products is counted.

    Args:
        traced: The step.
        turns: Of loops that end when their condition says so: of those that draw answers, the limit of new tokens.
    """
    return _of(traced.jaxpr.jaxpr, turns)


def _of(jaxpr: Jaxpr, turns: int) -> int:
    return sum(_of_equation(equation, turns) for equation in jaxpr.eqns)


def _of_equation(equation: JaxprEqn, turns: int) -> int:
    kind, params = equation.primitive.name, equation.params
    if kind == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        return 2 * math.prod(equation.outvars[0].aval.shape) * math.prod(left[axis] for axis in contracted)
    inner = [_of(one, turns) for one in _inside(params)]
    if kind == "cond":
        return max(inner)
    if kind == "scan":
        return params["length"] * sum(inner)
    if kind == "while":
        return turns * sum(inner)
    if kind == "shard_map":
        mesh = params["mesh"]
        return math.prod(mesh.shape[name] for name in params["newly_manual_axes"]) * sum(inner)
    if kind == "pallas_call":
        return math.prod(params["grid_mapping"].grid) * sum(inner)
    return sum(inner)


def _inside(params: dict[str, Any]) -> list[Jaxpr]:
    """The programs that an equation holds."""
    found = []
    for value in params.values():
        for one in value if isinstance(value, tuple | list) else (value,):
            if isinstance(one, ClosedJaxpr):
                found.append(one.jaxpr)
            elif isinstance(one, Jaxpr):
                found.append(one)
    return found
