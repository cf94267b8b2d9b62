"""Where arrays live: one mesh of three axes and one ordered table of (path pattern -> PartitionSpec).

``data`` replicates weights and splits the batch, ``fsdp`` splits both, ``tensor`` splits heads, hidden units and
vocabulary. A single device is a mesh of shape (1, 1, 1), so the same code path runs everywhere.
"""

import re
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
BATCH = P(("data", "fsdp"))

# Read from the top; the first pattern that matches a leaf's path decides. Stacked layers put an axis in front.
RULES: tuple[tuple[str, P], ...] = (
    # Low-rank adapters: the wide side is split like the kernel that it adjusts, the rank never.
    (r"lora/.*/(q|k|v|gate|up)/a$", P(None, "fsdp", None)),
    (r"lora/.*/(q|k|v|gate|up)/b$", P(None, None, "tensor")),
    (r"lora/.*/(o|down)/a$", P(None, "tensor", None)),
    (r"lora/.*/(o|down)/b$", P(None, None, "fsdp")),
    # Decoder and CLIP blocks.
    (r"blocks/(attention|mlp)/(q|k|v|gate|up)/kernel(/(values|codes|absmax))?$", P(None, "fsdp", "tensor")),
    (r"blocks/(attention|mlp)/(o|down)/kernel(/(values|codes|absmax))?$", P(None, "tensor", "fsdp")),
    # One number a column of a quantised kernel.
    (r"blocks/(attention|mlp)/(q|k|v|gate|up)/kernel/(scale|peak)$", P(None, "tensor")),
    (r"blocks/(attention|mlp)/(o|down)/kernel/(scale|peak)$", P(None, "fsdp")),
    (r"blocks/(attention|mlp)/(q|k|v|up)/bias$", P(None, "tensor")),
    # Vocabulary: rows of the table are gathered, so they stay whole; columns of the head are split.
    (r"(language|text)/embedding$", P(None, "fsdp")),
    (r"language/head/kernel$", P("fsdp", "tensor")),
    (r"projector/linear1/kernel$", P("fsdp", "tensor")),
    (r"projector/linear1/bias$", P("tensor")),
    (r"projector/linear2/kernel$", P("tensor", "fsdp")),
    (r"(visual|text)_projection/kernel$", P("fsdp", None)),
    # Norms, biases of the block outputs, position tables, scalar heads, optimizer counts.
    (
        r"(scale|bias|class_embedding|position_embedding|patch_embedding/kernel|head/kernel|logit_scale"
        r"|classifier/.*/kernel|count|step)$",
        P(),
    ),
)


def make_mesh(data: int = 1, fsdp: int = 1, tensor: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh over the first ``data * fsdp * tensor`` devices; sharding is left to the compiler (Auto axes)."""
    count = data * fsdp * tensor
    devices = list(devices or jax.devices())
    if count > len(devices):
        raise ValueError(f"a mesh of {data} x {fsdp} x {tensor} needs {count} devices, found {len(devices)}")
    return jax.make_mesh((data, fsdp, tensor), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices[:count])


def path_name(path: Sequence[Any]) -> str:
    """A key path of ``jax.tree_util`` as names joined by slashes."""
    return "/".join(str(getattr(key, "key", getattr(key, "name", getattr(key, "idx", key)))) for key in path)


def spec_for(path: str) -> P:
    """The first matching rule's spec. Raises KeyError on a path that no rule knows."""
    for pattern, spec in RULES:
        if re.search(pattern, path):
            return spec
    raise KeyError(f"no sharding rule matches {path!r}")


def shardings(mesh: Mesh | AbstractMesh, tree: Any) -> Any:
    """A NamedSharding for every leaf of a tree of weights, adapters or optimizer state (arrays or shapes).

    Over an abstract mesh, which has a shape and no devices, full-size steps can be traced on any machine.

    An axis that does not divide by the mesh axis stays whole, so that odd vocabularies and tiny models load; the
    presets' test checks that this never happens to a full-size kernel.
    """

    def place(path, leaf):
        spec = spec_for(path_name(path))
        fitted = [
            axis if axis is not None and size % mesh.shape[axis] == 0 else None
            for size, axis in zip(leaf.shape, tuple(spec), strict=False)
        ]
        return NamedSharding(mesh, P(*fitted))

    return jax.tree_util.tree_map_with_path(place, tree)


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Rows over data and fsdp; every other axis whole."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def constrain(x: jax.Array, *spec: Any) -> jax.Array:
    """Pin an activation's sharding where a mesh is in context (``jax.set_mesh``); elsewhere return it as it is.

    Needed after the embedding look-up: a gather from a split table comes back with an unsplit batch axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*spec))
