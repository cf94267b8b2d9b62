"""The TPU compiler on a machine without a TPU, where it is installed (``pip install -e '.[tpu]'``, 700 MB)."""

import os
import subprocess
import sys

import pytest

from tpu.compiled import has_compiler, wanted

ONE_STEP = """
from tpu.compiled import compile_step, lower_step, tpu_mesh
from tpu.program import Program
from vlm_jax.planning.chips import topology_named
from vlm_jax.planning.steps import Case, step_of

v5e = topology_named("v5e-4")
step = step_of(Case("scenes-tiny", "score"), tpu_mesh(v5e, 1, 4, 1))
made = compile_step(step, lower_step(step))
assert made.fits(v5e.chip.memory) and not made.fits(made.total - 1)
assert made.arguments > 10**6, made
assert "all-gather" in Program(made.text).bytes_by_kind()
print("compiled")
"""


@pytest.mark.skipif(not has_compiler(), reason="libtpu is not installed: it is 700 MB and comes with the extra [tpu]")
def test_a_small_step_is_compiled_for_v5e():
    # Apart: the compiler keeps what it has taken, and would see the devices of the other tests.
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", ONE_STEP], env=environment, capture_output=True, text=True)
    assert done.stdout == "compiled\n", done.stderr[-2000:]


def test_what_the_compiler_counted_before_it_gave_up():
    beside = "the total memory required for HLO temporaries (39.13G) exceeds available HBM (15.75G)."
    assert wanted(beside, 10) == int(39.13 * 2**30)
    in_all = "Ran out of memory in memory space hbm. Used 2.50G of 1.00G hbm. Exceeded hbm capacity by 1.50G."
    assert wanted(in_all, 2**30) == int(1.5 * 2**30)
    with pytest.raises(ValueError, match="no figure in 'Ran out of patience'"):
        wanted("Ran out of patience", 0)
