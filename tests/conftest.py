"""Runs before any test module: shapes in signatures are checked at run time, and no test reaches the network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Three device counts of the sharding tests (1, 2 x 4, 8) on one CPU; must be set before jax starts.
os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"

from jaxtyping import install_import_hook

install_import_hook("vlm_jax", "beartype.beartype")
