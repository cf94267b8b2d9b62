"""What travels between devices, read from programs: written out by hand, and compiled for CPU devices."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import PartitionSpec as P

from tpu.program import Program, Transfer, arrays
from vlm_jax.parallel.mesh import make_mesh

# As the TPU compiler writes: a loop that counts by twos, and a gather that is spread over two fused steps.
TEXT = """HloModule jit_step, is_scheduled=true

%async_fusion.1 (param_0.1: bf16[8,128]) -> bf16[32,128] {
  %param_0.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.1 = bf16[32,128]{1,0:T(8,128)(2,1)S(1)} all-gather(%param_0.1), channel_id=7, dimensions={0}
}

%async_fusion.2 (param_0.2: bf16[8,128]) -> bf16[32,128] {
  %param_0.2 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  ROOT %all-gather.2 = bf16[32,128]{1,0:T(8,128)(2,1)} all-gather(%param_0.2), channel_id=7, dimensions={0}
}

%body (param.1: (u32[], bf16[8,128])) -> (u32[], bf16[8,128]) {
  %param.1 = (u32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %constant.2 = u32[]{:T(128)} constant(2)
  %counter = u32[]{:T(128)} get-tuple-element(%param.1), index=0
  %state = bf16[8,128]{1,0} get-tuple-element(%param.1), index=1
  %next = u32[]{:T(128)} add(%counter, %constant.2)
  %sent = (bf16[8,128]{1,0}, bf16[8,128]{1,0}, u32[]{:S(2)}) collective-permute-start(%state), channel_id=1
  %fusion.1 = bf16[32,128]{1,0} fusion(%state), kind=kCustom, calls=%async_fusion.1
  %fusion.2 = bf16[32,128]{1,0} fusion(%state), kind=kCustom, calls=%async_fusion.2
  %got = bf16[8,128]{1,0} collective-permute-done(%sent)
  ROOT %tuple.1 = (u32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%next, %got)
}

%condition (param.2: (u32[], bf16[8,128])) -> pred[] {
  %param.2 = (u32[]{:T(128)}, bf16[8,128]{1,0}) parameter(0)
  %constant.3 = u32[]{:T(128)} constant(15)
  %counted = u32[]{:T(128)} get-tuple-element(%param.2), index=0
  ROOT %compare.1 = pred[]{:T(512)} compare(%counted, %constant.3), direction=LT
}

ENTRY %main (x: bf16[8,128]) -> f32[16] {
  %x = bf16[8,128]{1,0} parameter(0)
  %constant.4 = u32[]{:T(128)} constant(0)
  %start = (u32[]{:T(128)}, bf16[8,128]{1,0}) tuple(%constant.4, %x)
  %while.1 = (u32[]{:T(128)}, bf16[8,128]{1,0}) while(%start), condition=%condition, body=%body
  %table = s32[1,2,2]{2,1,0} constant({
  {
    { 1, 2 },
    { 3, 4 }
  }
})
  %numbers = f32[16]{0} constant({...})
  ROOT %all-reduce.1 = f32[16]{0} all-reduce(%numbers), channel_id=9, to_apply=%sum
}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}
"""


def test_loops_count_as_often_as_they_run_and_a_spread_transfer_once():
    found = Program(TEXT).transfers()
    assert sorted(found, key=lambda one: one.kind) == [
        Transfer("all-gather", ((32, 128),), 32 * 128 * 2, times=8),
        Transfer("all-reduce", ((16,),), 64, times=1),
        Transfer("collective-permute", ((8, 128), (8, 128), ()), 8 * 128 * 2 + 4, times=8),
    ]


def test_what_is_summed_travels_twice():
    kinds = Program(TEXT).bytes_by_kind()
    assert kinds["all-reduce"] == (1, 2 * 64)
    assert kinds["all-gather"] == (8, 8 * 32 * 128 * 2)


@pytest.mark.parametrize(
    ("written", "found"),
    [
        ("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}", [((2, 3), 12)]),
        ("(f32[], u4[3], pred[7])", [((), 4), ((3,), 2), ((7,), 7)]),
        ("token[]", []),
    ],
)
def test_types(written, found):
    assert arrays(written) == found


def test_a_scan_on_eight_devices():
    mesh = make_mesh(fsdp=8)

    @jax.jit
    def run(weights, x):
        def layer(x, weight):
            return jnp.tanh(x @ jax.lax.with_sharding_constraint(weight, P())), None

        return jax.lax.scan(layer, x, weights)[0]

    with jax.set_mesh(mesh):
        weights = jax.device_put(jnp.ones((5, 64, 32 * 2)), jax.sharding.NamedSharding(mesh, P(None, "fsdp")))
        x = jax.device_put(jnp.ones((16, 64)), jax.sharding.NamedSharding(mesh, P("fsdp")))
        text = run.lower(weights, x).compile().as_text()
    (gather,) = [one for one in Program(text).transfers() if one.kind == "all-gather"]
    # Whether whole layers at a time or all of them before the loop.
    assert gather.bytes * gather.times == 5 * 64 * 64 * 4
