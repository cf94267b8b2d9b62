"""Where arrays live: one mesh of three axes and one ordered table of (path pattern -> PartitionSpec).

``data`` replicates weights and splits the batch, ``fsdp`` splits both, ``tensor`` splits heads, hidden units and
vocabulary. A single device is a mesh of shape (1, 1, 1), so the same code path runs everywhere.
"""

import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

AXES = ("data", "fsdp", "tensor")
# What rows are split over.
BATCH_AXES = ("data", "fsdp")
BATCH = P(BATCH_AXES)

# Read from the top; the first pattern that matches a leaf's path decides. Stacked layers put an axis in front.
RULES: tuple[tuple[str, P], ...] = (
    # Low-rank adapters: the wide side is split like the kernel that it adjusts, the rank never. Where that is by
    # tensor, each of its parts once more by fsdp: an adapter, its moments and its gradient lie nowhere twice in a copy.
    (r"lora/.*/(q|k|v|gate|up)/a$", P(None, "fsdp", None)),
    (r"lora/.*/(q|k|v|gate|up)/b$", P(None, None, ("tensor", "fsdp"))),
    (r"lora/.*/(o|down)/a$", P(None, ("tensor", "fsdp"), None)),
    (r"lora/.*/(o|down)/b$", P(None, None, "fsdp")),
    # Decoder and CLIP blocks.
    (r"blocks/(attention|mlp)/(q|k|v|gate|up)/kernel(/(values|codes|absmax))?$", P(None, "fsdp", "tensor")),
    (r"blocks/(attention|mlp)/(o|down)/kernel(/(values|codes|absmax))?$", P(None, "tensor", "fsdp")),
    # One number a column of a quantised kernel.
    (r"blocks/(attention|mlp)/(q|k|v|gate|up)/kernel/(scale|peak)$", P(None, "tensor")),
    (r"blocks/(attention|mlp)/(o|down)/kernel/(scale|peak)$", P(None, "fsdp")),
    (r"blocks/(attention|mlp)/(q|k|v|up)/bias$", P(None, "tensor")),
    # Vocabulary: rows of the table are gathered, so they stay whole; columns of the head are split. A table that is
    # only read lies whole on every device: a look-up in parts of it would move all ids there and all rows back.
    (r"^language/embedding$", P()),
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
        fitted = [_fitting(mesh, size, axes) for size, axes in zip(leaf.shape, tuple(spec), strict=False)]
        return NamedSharding(mesh, P(*fitted))

    return jax.tree_util.tree_map_with_path(place, tree)


def _fitting(mesh: Mesh | AbstractMesh, size: int, axes: str | tuple[str, ...] | None) -> Any:
    """As many of the mesh axes, from the first, as divide an axis of this size evenly."""
    names = (axes,) if isinstance(axes, str) else tuple(axes or ())
    kept = [name for i, name in enumerate(names) if size % math.prod(mesh.shape[one] for one in names[: i + 1]) == 0]
    return None if not kept else kept[0] if isinstance(axes, str) else tuple(kept)


def batch_sharding(mesh: Mesh | AbstractMesh) -> NamedSharding:
    """Rows over data and fsdp; every other axis whole."""
    return NamedSharding(mesh, BATCH)


def replicated(mesh: Mesh | AbstractMesh) -> NamedSharding:
    return NamedSharding(mesh, P())


def platform() -> str:
    """``cpu``, ``gpu`` or ``tpu``: of the mesh in context, which may be one that programs are only compiled for; else
    where JAX computes."""
    device = jax.sharding.get_abstract_mesh().abstract_device
    return jax.default_backend() if device is None else device.platform


def constrain(x: jax.Array, *spec: Any) -> jax.Array:
    """Pin an activation's sharding where a mesh is in context (``jax.set_mesh``); elsewhere return it as it is.

    Needed after the embedding look-up: a gather from a split table comes back with an unsplit batch axis.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x
    return jax.lax.with_sharding_constraint(x, P(*spec))


def fsdp_parts() -> int:
    """Parts that weights are split into beside those of ``tensor``, of the mesh in context; 1 where there is none."""
    mesh = jax.sharding.get_abstract_mesh()
    return 1 if mesh.empty else mesh.shape["fsdp"]


def spread_for_decoding(tree: Any, under: str) -> Any:
    """Weights as the steps of decoding read them: outputs (or, of the second of two products, inputs) split over tensor
    and fsdp, so that it is the few activations of a token that travel between devices and not all weights.

    Args:
        tree: Weights, or an adapter in the arithmetic's type.
        under: Path of the tree, as :data:`RULES` know it.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if fsdp_parts() == 1:
        return tree

    def place(path, leaf):
        spec = tuple(spec_for(f"{under}/{path_name(path)}"))
        spec = tuple({"tensor": ("tensor", "fsdp"), "fsdp": None}.get(axes, axes) for axes in spec)
        fitted = [_fitting(mesh, size, axes) for size, axes in zip(leaf.shape, spec, strict=False)]
        return jax.lax.with_sharding_constraint(leaf, P(*fitted))

    return jax.tree_util.tree_map_with_path(place, tree)


def split_by_feature(x: jax.Array) -> jax.Array:
    """[b, t, d] with its rows whole over fsdp and its features split, as products with weights that are
    :func:`spread_for_decoding` give and take them."""
    return constrain(x, "data", None, ("tensor", "fsdp"))


def by_rows(function: Callable[..., jax.Array], *arrays: jax.Array) -> jax.Array:
    """``function`` of arrays whose first axis are rows that know nothing of each other, on each device of its own rows.

    For what the compiler does not split itself (looking up by another index in every row). Where no mesh is in context,
    or the rows do not divide by its parts, of all rows at once.
    """
    mesh = jax.sharding.get_abstract_mesh()
    parts = math.prod(mesh.shape[name] for name in BATCH_AXES) if not mesh.empty else 1
    if parts == 1 or len(arrays[0]) % parts:
        return function(*arrays)
    split = jax.shard_map(function, in_specs=BATCH, out_specs=BATCH, axis_names=set(BATCH_AXES))
    return split(*arrays)


def by_rows_and_heads(
    function: Callable[..., jax.Array], by_head: Sequence[jax.Array], by_row: Sequence[jax.Array]
) -> jax.Array:
    """``function(*by_head, *by_row)`` on each device of its own rows and heads, for kernels that the compiler cannot
    split.

    Args:
        function: Returns what is split as the arrays of ``by_head`` are.
        by_head: Rows first, heads third, of [b, t, n, h].
        by_row: Rows first.

    Raises:
        ValueError: Rows or heads do not divide by the mesh in context.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function(*by_head, *by_row)
    parts, tensor = math.prod(mesh.shape[name] for name in BATCH_AXES), mesh.shape["tensor"]
    for array in by_head:
        if array.shape[0] % parts or array.shape[2] % tensor:
            raise ValueError(f"{array.shape[0]} rows by {parts} and {array.shape[2]} heads by {tensor} do not divide")
    heads = P(BATCH_AXES, None, "tensor", None)
    specs = (*[heads] * len(by_head), *[BATCH] * len(by_row))
    # Kernels do not say over which axes their results vary.
    split = jax.shard_map(function, in_specs=specs, out_specs=heads, check_vma=False)
    return split(*by_head, *by_row)


def gathered(adapter: Any, dtype: jnp.dtype) -> Any:
    """One layer's adapter as it is used: in the arithmetic's type, and whole over fsdp.

    Left to itself the compiler would rather split the activations as the adapter is split, whose rows lie on fsdp too.

    Args:
        adapter: Leaves of one layer, without the layers' axis, or None.
        dtype: Of the arithmetic.
    """

    def gather(path, leaf):
        layer = tuple(spec_for(f"lora/{path_name(path)}"))[1:]
        return constrain(leaf.astype(dtype), *("tensor" if "tensor" in (axes or ()) else None for axes in layer))

    return jax.tree_util.tree_map_with_path(gather, adapter)
