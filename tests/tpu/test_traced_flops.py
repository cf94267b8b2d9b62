"""Products counted in what jax traced, against counts by hand."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from tpu.flops import flops
from vlm_jax.parallel.mesh import make_mesh

A, B = jnp.ones((4, 5)), jnp.ones((5, 6))
ONE = 2 * 4 * 5 * 6


def scanned(a, b):
    return jax.lax.scan(lambda total, _: (total + (a @ b).sum(), None), 0.0, None, length=7)[0]


def looped(a, b):
    return jax.lax.while_loop(lambda total: total < 9, lambda total: total + (a @ b).sum(), 0.0)


def chosen(a, b):
    return jax.lax.cond(a.sum() > 0, lambda: (a @ b).sum(), lambda: (a @ b @ b.T).sum())


@pytest.mark.parametrize(
    ("function", "count"),
    [
        (lambda a, b: a @ b, ONE),
        (jax.jit(lambda a, b: jnp.einsum("ij,jk->ik", a, b)), ONE),
        (scanned, 7 * ONE),
        (looped, 3 * ONE),
        (chosen, 2 * ONE),
        (jax.grad(lambda a, b: (a @ b).sum(), (0, 1)), 3 * ONE),
        (jax.grad(jax.checkpoint(lambda a, b: jnp.sin(a @ b).sum())), 3 * ONE),
    ],
    ids=["matmul", "einsum", "scan", "while", "cond", "gradient", "recomputed"],
)
def test_by_hand(function, count):
    assert flops(jax.jit(function).trace(A, B), turns=3) == count


def test_parts_on_devices_add_up():
    mesh = make_mesh(fsdp=4)
    split = jax.shard_map(lambda a, b: a @ b, mesh=mesh, in_specs=(P("fsdp"), P()), out_specs=P("fsdp"))
    assert flops(jax.jit(split).trace(A, B), turns=1) == ONE
