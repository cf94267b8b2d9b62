"""Which packages made a result."""

import importlib.metadata

PACKAGES = ("vlm-jax", "jax", "flax", "optax", "orbax-checkpoint", "transformers", "numpy", "pillow")


def versions() -> dict[str, str]:
    """Of the packages that figures depend on."""
    return {package: importlib.metadata.version(package) for package in PACKAGES}
