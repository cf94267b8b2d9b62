"""Runs before any test module: shapes in signatures are checked at run time, and no test reaches the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Three device counts of the sharding tests (1, 2 x 4, 8) on one CPU; must be set before jax starts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

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
