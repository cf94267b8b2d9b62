"""``import vlm_jax`` costs nothing until something is asked for."""

import subprocess
import sys
from pathlib import Path

import pytest

import vlm_jax

ROOT = Path(__file__).parents[2]


def test_importing_is_quick_and_imports_nothing_heavy():
    code = """
import sys, time
before, began = set(sys.modules), time.perf_counter()
import vlm_jax
taken, listed = time.perf_counter() - began, dir(vlm_jax)
vlm_jax.InputError, vlm_jax.MeshOptions
print(taken, *{name.partition(".")[0] for name in set(sys.modules) - before})
"""
    runs = [subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True) for _ in range(3)]
    assert [run.stderr for run in runs] == [""] * 3
    taken = min(float(run.stdout.split()[0]) for run in runs)
    loaded = set(runs[0].stdout.split()[1:])
    assert taken < 0.1
    assert "vlm_jax" in loaded
    assert not loaded & {"jax", "jaxlib", "numpy", "PIL", "flax", "transformers", "grain", "tyro"}


def test_every_name_is_there():
    assert {"load", "Vlm", "States", "MeshOptions", "InputError", "__version__"} <= set(dir(vlm_jax))
    assert {getattr(vlm_jax, name).__name__ for name in vlm_jax.__all__} == set(vlm_jax.__all__)
    with pytest.raises(AttributeError, match="'vlm_jax' has no attribute 'laod'"):
        vlm_jax.laod  # noqa: B018
