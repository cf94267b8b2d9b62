"""The sharding table: every weight of every model meets the rule that was written for it, and splits evenly."""

import re

import jax
import pytest
from jax.sharding import PartitionSpec as P

from vlm_jax.config import CLIP_PRESETS, PRESETS
from vlm_jax.models.adapters import init_lora, init_reward_head
from vlm_jax.models.clip import init_clip
from vlm_jax.models.llava import init_llava
from vlm_jax.models.quantize import quantize_base
from vlm_jax.parallel.mesh import RULES, make_mesh, path_name, shardings, spec_for

# What a leaf's last names mean, written out without patterns. Vectors and tables of positions stay whole.
COLUMNS, ROWS, WHOLE = P(None, "fsdp", "tensor"), P(None, "tensor", "fsdp"), P()
INTENDED = {
    **{f"attention/{name}/kernel": COLUMNS for name in "qkv"},
    "attention/o/kernel": ROWS,
    "mlp/gate/kernel": COLUMNS,
    "mlp/up/kernel": COLUMNS,
    "mlp/down/kernel": ROWS,
    **{f"attention/{name}/bias": P(None, "tensor") for name in "qkv"},
    "mlp/up/bias": P(None, "tensor"),
    "language/embedding": P(),
    "text/embedding": P(None, "fsdp"),
    "language/head/kernel": P("fsdp", "tensor"),
    "projector/linear1/kernel": P("fsdp", "tensor"),
    "projector/linear1/bias": P("tensor"),
    "projector/linear2/kernel": P("tensor", "fsdp"),
    "visual_projection/kernel": P("fsdp", None),
    "text_projection/kernel": P("fsdp", None),
    **{
        f"{name}/kernel/{part}": P(None, *split)
        for names, split in ((("q", "k", "v", "gate", "up"), ("fsdp", "tensor")), (("o", "down"), ("tensor", "fsdp")))
        for name in names
        for part in ("values", "codes", "absmax")
    },
    **{
        f"{name}/kernel/{part}": P(None, split)
        for names, split in ((("q", "k", "v", "gate", "up"), "tensor"), (("o", "down"), "fsdp"))
        for name in names
        for part in ("scale", "peak")
    },
    **{f"attention/{name}/a": P(None, "fsdp", None) for name in "qkv"},
    **{f"attention/{name}/b": P(None, None, ("tensor", "fsdp")) for name in "qkv"},
    **{f"mlp/{name}/a": P(None, "fsdp", None) for name in ("gate", "up")},
    **{f"mlp/{name}/b": P(None, None, ("tensor", "fsdp")) for name in ("gate", "up")},
    **{f"{name}/a": P(None, ("tensor", "fsdp"), None) for name in ("attention/o", "mlp/down")},
    **{f"{name}/b": P(None, None, "fsdp") for name in ("attention/o", "mlp/down")},
}


def trees():
    """Every tree that a preset can bring to a mesh, by name."""
    for name, config in PRESETS.items():
        shapes = jax.eval_shape(lambda: init_llava(config, jax.random.key(0)))  # noqa: B023
        yield name, shapes
        for scheme in ("int8", "nf4_double"):
            yield f"{name} {scheme}", jax.eval_shape(lambda base: quantize_base(base, scheme), shapes)  # noqa: B023
        role = {"lora": lambda: init_lora(config, jax.random.key(0))}  # noqa: B023
        role["head"] = lambda: init_reward_head(config, jax.random.key(0))  # noqa: B023
        yield f"{name} role", {part: jax.eval_shape(make) for part, make in role.items()}
    for name, config in CLIP_PRESETS.items():
        yield f"clip {name}", jax.eval_shape(lambda: init_clip(config, jax.random.key(0)))  # noqa: B023


TREES = dict(trees())
LEAVES = {
    (name, path_name(path)): leaf.shape
    for name, tree in TREES.items()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
}


def test_every_leaf_meets_the_intended_rule():
    for _, path in LEAVES:
        intended = [spec for ending, spec in INTENDED.items() if path.endswith(f"/{ending}") or path == ending]
        assert spec_for(path) == (intended[0] if intended else WHOLE), path
        assert len(intended) <= 1, path


def test_specs_have_no_more_axes_than_their_leaves():
    for (_, path), shape in LEAVES.items():
        assert len(spec_for(path)) <= len(shape), path


def test_no_rule_is_unused():
    first = {next(pattern for pattern, _ in RULES if re.search(pattern, path)) for _, path in LEAVES}
    assert first == {pattern for pattern, _ in RULES}


@pytest.mark.parametrize("size", [2, 4, 8])
def test_full_size_models_split_evenly(size):
    for (name, path), shape in LEAVES.items():
        if path.endswith("/absmax"):
            # An eighth of a bit a weight: one that does not divide stays whole on every device.
            continue
        if "tiny" in name:
            continue
        for axis, length in zip(spec_for(path), shape, strict=False):
            parts = size ** len((axis,) if isinstance(axis, str) else axis or ())
            assert length % parts == 0, (name, path, shape)


def test_an_unknown_leaf_is_an_error():
    with pytest.raises(KeyError, match="language/blocks/attention/q/surprise"):
        spec_for("language/blocks/attention/q/surprise")


def test_one_device_is_a_mesh_and_too_few_are_an_error():
    mesh = make_mesh()
    assert mesh.shape == {"data": 1, "fsdp": 1, "tensor": 1}
    placed = shardings(mesh, TREES["scenes-tiny"])
    assert jax.tree.structure(placed) == jax.tree.structure(TREES["scenes-tiny"])
    with pytest.raises(ValueError, match="needs 1000000 devices"):
        make_mesh(data=100, fsdp=100, tensor=100)


def test_an_axis_that_does_not_divide_stays_whole():
    leaf = {"text": {"embedding": jax.ShapeDtypeStruct((61, 30), "float32")}}
    placed = shardings(make_mesh(fsdp=4, tensor=2), leaf)
    assert placed["text"]["embedding"].spec == P(None, None)
    # Of two axes the first alone, where only that divides.
    half = {"lora": {"attention": {"q": {"b": jax.ShapeDtypeStruct((2, 4, 30), "float32")}}}}
    assert shardings(make_mesh(fsdp=4, tensor=2), half)["lora"]["attention"]["q"]["b"].spec == P(
        None, None, ("tensor",)
    )


def test_a_table_that_is_trained_is_split():
    """With its moments it is four times as large, and lies whole nowhere."""
    assert spec_for("params/base/language/embedding") == P(None, "fsdp")
