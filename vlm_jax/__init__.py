"""Measure, explain and cure hallucination in vision-language models, in JAX.

A script needs one call: ``vlm_jax.load`` opens a checkpoint, and what it returns answers, scores and shows its states
(``vlm_jax.scripting``). Nothing heavy is imported before a name below is asked for.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vlm_jax.checkpoints.opening import MeshOptions
    from vlm_jax.errors import InputError
    from vlm_jax.scripting.model import Vlm, load
    from vlm_jax.scripting.states import States

__version__ = "0.1.0"
__all__ = ["InputError", "MeshOptions", "States", "Vlm", "load"]

_MODULES = {
    "InputError": "vlm_jax.errors",
    "MeshOptions": "vlm_jax.checkpoints.opening",
    "States": "vlm_jax.scripting.states",
    "Vlm": "vlm_jax.scripting.model",
    "load": "vlm_jax.scripting.model",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
