"""Runs before any test module: shapes in signatures are checked at run time, and no test reaches the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Must be set before jax starts. Eight devices on one CPU for the sharding tests; less optimisation, since tests compile
# far longer than they run.
_FLAGS = (
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
)
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_FLAGS))

import flax.struct
from jaxtyping import install_import_hook

# Jax rebuilds structs with leaves of every kind (shardings, shapes, NumPy arrays), so functions alone are checked.
_struct = flax.struct.dataclass


def _unchecked(cls=None, **options):
    if cls is None:
        return lambda cls: _unchecked(cls, **options)
    made = _struct(cls, **options)
    made.__no_type_check__ = True
    return made


flax.struct.dataclass = _unchecked
install_import_hook("vlm_jax", "beartype.beartype")
