"""Runs before any test module: shapes in signatures are checked at run time, and no test reaches the network."""

import gc
import os
from importlib.metadata import version
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Commands keep what they compile in the user's home.
os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")
# Must be set before jax starts. Eight devices on one CPU for the sharding tests; less optimisation, since tests compile
# far longer than they run.
_FLAGS = [
    "--xla_force_host_platform_device_count=8",
    "--xla_backend_optimization_level=0",
    "--xla_llvm_disable_expensive_passes=true",
    "--xla_cpu_parallel_codegen_split_count=1",
]
# The older of two generators of code compiles in half the time; from 0.11 on it is gone, and so is the flag.
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):
    _FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join((os.environ.get("XLA_FLAGS", ""), *_FLAGS))

import flax.struct
from beartype import BeartypeConf
from beartype.claw import beartype_package
from jaxtyping import TypeCheckError, install_import_hook

# Jax rebuilds structs with leaves of every kind (shardings, shapes, NumPy arrays), so functions alone are checked.
_struct = flax.struct.dataclass


def _unchecked(cls=None, **options):
    if cls is None:
        return lambda cls: _unchecked(cls, **options)
    made = _struct(cls, **options)
    made.__no_type_check__ = True
    return made


flax.struct.dataclass = _unchecked
# Types are checked everywhere by beartype. Where arrays are annotated jaxtyping checks their shapes too, which costs
# every call ten times as much; it also passes over names imported for annotations alone, which beartype refuses.
_TYPES = BeartypeConf(claw_is_pep526=False, violation_type=TypeCheckError, warning_cls_on_decorator_exception=None)
beartype_package("vlm_jax", conf=_TYPES)
_ROOT = Path(__file__).parents[1]
_SHAPED = [
    ".".join(path.relative_to(_ROOT).with_suffix("").parts).removesuffix(".__init__")
    for path in _ROOT.glob("vlm_jax/**/*.py")
    if any(word in path.read_text(encoding="utf-8") for word in ("jaxtyping", "TYPE_CHECKING"))
]
install_import_hook(_SHAPED, "beartype.beartype")


def pytest_collection_finish():
    """What is imported stays to the end; the collector of garbage need not look through it again and again."""
    gc.freeze()
