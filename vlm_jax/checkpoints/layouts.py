"""Tables from the tensor names of torch checkpoints to paths in our weight trees.

A layout is a tuple of rows ``(torch name, our path, transform)``. ``{i}`` in a name stands for the layer: its
tensors are stacked along our leaf's first axis. A new format is a new table; reading, checking and writing stay
the same.

Source of the names: transformers' ``modeling_clip.py``, ``modeling_llama.py`` and ``modeling_llava.py`` up to
4.51, whose names in memory are the ones in every published file.
"""

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Literal, NamedTuple

import flax.traverse_util
import jax
import ml_dtypes
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.errors import InputError


class Transform(NamedTuple):
    """One tensor, one layer at a time: from torch's axes to ours and back."""

    to_ours: Callable[[Any], Any]
    to_torch: Callable[[Any], Any]


class Row(NamedTuple):
    name: str
    path: str
    transform: Transform


Layout = tuple[Row, ...]


def _kernel_of_conv(weight: Any) -> Any:
    """[O, I, H, W] to [H * W * I, O], as ``VisionTower.embed`` unrolls a patch."""
    return weight.transpose(2, 3, 1, 0).reshape(-1, weight.shape[0])


def _conv_of_kernel(kernel: Any) -> Any:
    """The reverse, for square patches of three channels."""
    side = math.isqrt(kernel.shape[0] // 3)
    return kernel.reshape(side, side, 3, -1).transpose(3, 2, 0, 1)


SAME = Transform(lambda x: x, lambda x: x)
LINEAR = Transform(lambda x: x.T, lambda x: x.T)
CONV = Transform(_kernel_of_conv, _conv_of_kernel)


def _linear(name: str, path: str, *, bias: bool) -> Layout:
    rows = (Row(f"{name}.weight", f"{path}/kernel", LINEAR),)
    return (*rows, Row(f"{name}.bias", f"{path}/bias", SAME)) if bias else rows


def _layer_norm(name: str, path: str) -> Layout:
    return Row(f"{name}.weight", f"{path}/scale", SAME), Row(f"{name}.bias", f"{path}/bias", SAME)


def _clip_blocks(name: str, path: str) -> Layout:
    return (
        *_layer_norm(f"{name}.layer_norm1", f"{path}/norm1"),
        *_linear(f"{name}.self_attn.q_proj", f"{path}/attention/q", bias=True),
        *_linear(f"{name}.self_attn.k_proj", f"{path}/attention/k", bias=True),
        *_linear(f"{name}.self_attn.v_proj", f"{path}/attention/v", bias=True),
        *_linear(f"{name}.self_attn.out_proj", f"{path}/attention/o", bias=True),
        *_layer_norm(f"{name}.layer_norm2", f"{path}/norm2"),
        *_linear(f"{name}.mlp.fc1", f"{path}/mlp/up", bias=True),
        *_linear(f"{name}.mlp.fc2", f"{path}/mlp/down", bias=True),
    )


def clip_vision(name: str, path: str) -> Layout:
    """CLIP's vision tower under a prefix that ends in ``vision_model``."""
    return (
        Row(f"{name}.embeddings.class_embedding", f"{path}/class_embedding", SAME),
        Row(f"{name}.embeddings.patch_embedding.weight", f"{path}/patch_embedding/kernel", CONV),
        Row(f"{name}.embeddings.position_embedding.weight", f"{path}/position_embedding", SAME),
        *_layer_norm(f"{name}.pre_layrnorm", f"{path}/pre_norm"),
        *_clip_blocks(f"{name}.encoder.layers.{{i}}", f"{path}/blocks"),
        *_layer_norm(f"{name}.post_layernorm", f"{path}/post_norm"),
    )


def clip_text(name: str, path: str) -> Layout:
    """CLIP's text tower under a prefix that ends in ``text_model``."""
    return (
        Row(f"{name}.embeddings.token_embedding.weight", f"{path}/embedding", SAME),
        Row(f"{name}.embeddings.position_embedding.weight", f"{path}/position_embedding", SAME),
        *_clip_blocks(f"{name}.encoder.layers.{{i}}", f"{path}/blocks"),
        *_layer_norm(f"{name}.final_layer_norm", f"{path}/final_norm"),
    )


# The seven projections of a decoder block, (torch module, our path); adapters are named after them too.
DECODER_PROJECTIONS = (
    ("self_attn.q_proj", "attention/q"),
    ("self_attn.k_proj", "attention/k"),
    ("self_attn.v_proj", "attention/v"),
    ("self_attn.o_proj", "attention/o"),
    ("mlp.gate_proj", "mlp/gate"),
    ("mlp.up_proj", "mlp/up"),
    ("mlp.down_proj", "mlp/down"),
)


def llama(model: str, head: str, path: str) -> Layout:
    """A LLaMA decoder: ``model`` is the prefix of its body, ``head`` the module of its vocabulary head."""
    layer, blocks = f"{model}.layers.{{i}}", f"{path}/blocks"
    projections = (_linear(f"{layer}.{name}", f"{blocks}/{ours}", bias=False) for name, ours in DECODER_PROJECTIONS)
    return (
        Row(f"{model}.embed_tokens.weight", f"{path}/embedding", SAME),
        Row(f"{layer}.input_layernorm.weight", f"{blocks}/attention_norm/scale", SAME),
        Row(f"{layer}.post_attention_layernorm.weight", f"{blocks}/mlp_norm/scale", SAME),
        *(row for rows in projections for row in rows),
        Row(f"{model}.norm.weight", f"{path}/norm/scale", SAME),
        *_linear(head, f"{path}/head", bias=False),
    )


# transformers' LlavaForConditionalGeneration as every version can read it.
HF_LLAVA: Layout = (
    *llama("language_model.model", "language_model.lm_head", "language"),
    *_linear("multi_modal_projector.linear_1", "projector/linear1", bias=True),
    *_linear("multi_modal_projector.linear_2", "projector/linear2", bias=True),
    *clip_vision("vision_tower.vision_model", "vision"),
)

# Applied in order to a file's names: names in memory since 4.52, and 5.x's tower without its inner level.
HF_LLAVA_RENAMES = (
    (r"^model\.language_model\.", "language_model.model."),
    (r"^lm_head\.", "language_model.lm_head."),
    (r"^model\.(multi_modal_projector|vision_tower)\.", r"\1."),
    (r"^vision_tower\.(?!vision_model\.)", "vision_tower.vision_model."),
)

# The projector of the original code.
ORIGINAL_PROJECTORS: dict[str, Layout] = {
    "linear": _linear("model.mm_projector", "projector/linear1", bias=True),
    "mlp": (
        *_linear("model.mm_projector.0", "projector/linear1", bias=True),
        *_linear("model.mm_projector.2", "projector/linear2", bias=True),
    ),
}

_TOWER = "model.vision_tower.vision_tower.vision_model"


def original_llava(projector: Literal["linear", "mlp"]) -> Layout:
    """``LlavaLlamaForCausalLM`` of the original code, LLaVA-RLHF's ``sft_model`` included."""
    return (*llama("model", "lm_head", "language"), *ORIGINAL_PROJECTORS[projector], *clip_vision(_TOWER, "vision"))


# A tower beside an original checkpoint: transformers' CLIPModel or CLIPVisionModel, and the latter's flat names of 5.x.
CLIP_RENAMES = (
    (r"^vision_model\.", f"{_TOWER}."),
    (r"^(embeddings|pre_layrnorm|encoder|post_layernorm)\.", rf"{_TOWER}.\1."),
)
# What a full CLIP file holds beside the tower.
CLIP_OTHERS = re.compile(r"^(text_model\.|visual_projection\.|text_projection\.|logit_scale$)")
# ``mm_projector.bin`` and ``non_lora_trainables.bin``: whatever stands before the projector's name.
PROJECTOR_RENAMES = ((r"^.*mm_projector\.", "model.mm_projector."), (r"^base_model\.model\.", ""))


def with_vocabulary(layout: Layout, ours: int, theirs: int) -> Layout:
    """The layout for files whose token tables have ``theirs`` rows where our tree has ``ours``.

    Where rows are added they are copies of the mean row; where they are dropped it is the last ones.
    """
    if ours == theirs:
        return layout
    changed = {
        "language/embedding": Transform(lambda x: _resized(x, ours), lambda x: _resized(x, theirs)),
        "language/head/kernel": Transform(lambda x: _resized(x, ours).T, lambda x: _resized(x.T, theirs)),
    }
    return tuple(row._replace(transform=changed.get(row.path, row.transform)) for row in layout)


def _resized(table: Any, rows: int) -> Any:
    if rows <= len(table):
        return table[:rows]
    numbers = table.__array_namespace__()
    mean = table.astype("float32").mean(0, keepdims=True).astype(table.dtype)
    return numbers.concatenate([table, numbers.repeat(mean, rows - len(table), 0)])


# Low-rank adapters as peft names them on the original LLaVA class, ``LlavaLlamaForCausalLM``.
PEFT_LORA: Layout = tuple(
    Row(f"base_model.model.model.layers.{{i}}.{name}.lora_{which.upper()}.weight", f"{ours}/{which}", LINEAR)
    for name, ours in DECODER_PROJECTIONS
    for which in ("a", "b")
)

# The same adapters with the adapter's name in every tensor's, as peft has it in memory and states are saved: any word
# without a dot; trained on transformers' class, since 4.52 and before.
PEFT_LORA_RENAMES = (
    (r"\.lora_([AB])\.[^.]+\.weight$", r".lora_\1.weight"),
    (r"^base_model\.model\.model\.language_model\.", "base_model.model.model."),
    (r"^base_model\.model\.language_model\.model\.", "base_model.model.model."),
)

# A projector that was trained whole beside an adapter: peft's ``modules_to_save``, on whichever class, with the
# adapter's name or without, which no part of the projector's is.
PEFT_PROJECTOR_RENAMES = (
    (r"\.modules_to_save\.((?!(\d+|linear_\d)\.(weight|bias)$)[^.]+\.)?", "."),
    (r"^.*multi_modal_projector\.linear_1\.", "model.mm_projector.0."),
    (r"^.*multi_modal_projector\.linear_2\.", "model.mm_projector.2."),
    (r"^.*mm_projector\.", "model.mm_projector."),
)

# A scalar head, torch's Linear to one output.
SCALAR_HEAD: Layout = (
    Row("weight", "kernel", Transform(lambda x: x[0], lambda x: x[None])),
    Row("bias", "bias", Transform(lambda x: x[0], lambda x: x[None])),
)

# transformers' CLIPModel.
HF_CLIP: Layout = (
    *clip_vision("vision_model", "vision"),
    *clip_text("text_model", "text"),
    *_linear("visual_projection", "visual_projection", bias=False),
    *_linear("text_projection", "text_projection", bias=False),
    Row("logit_scale", "logit_scale", SAME),
)

_NAMED = 8  # Tensors of one kind that a complaint lists by name.
# Buffers that old files carry and that follow from the config.
_COMPUTED = re.compile(r"(\.position_ids|\.rotary_emb\.inv_freq)$")


def normalised(names: Iterable[str], renames: tuple[tuple[str, str], ...]) -> dict[str, str]:
    """Name in the layout -> name in the file, computed buffers left out.

    Raises:
        InputError: Two names of the file mean the same tensor.
    """

    def rename(name: str) -> str:
        for pattern, replacement in renames:
            name = re.sub(pattern, replacement, name)
        return name

    found: dict[str, str] = {}
    for name in names:
        if _COMPUTED.search(name):
            continue
        if (here := rename(name)) in found:
            raise InputError(f"{found[here]} and {name}, which are one tensor", "each tensor once")
        found[here] = name
    return found


class Slot(NamedTuple):
    """Where one torch tensor goes, and the shape it must have in the file."""

    path: str
    layer: int | None
    transform: Transform
    shape: tuple[int, ...]


def slots(layout: Layout, shapes: Params) -> dict[str, Slot]:
    """Every torch tensor that a tree of shapes is made of, in the layout's order.

    Raises:
        ValueError: The tree has a leaf that the layout does not name, or the reverse.
    """
    leaves = flax.traverse_util.flatten_dict(shapes, sep="/")
    if odd := leaves.keys() ^ {row.path for row in layout}:
        raise ValueError(f"layout and tree differ at {sorted(odd)}")
    found = {}
    for row in layout:
        leaf, stacked = leaves[row.path], "{i}" in row.name
        one = jax.ShapeDtypeStruct(leaf.shape[1:] if stacked else leaf.shape, leaf.dtype)
        shape = jax.eval_shape(row.transform.to_torch, one).shape
        for layer in range(leaf.shape[0]) if stacked else (None,):
            found[row.name.replace("{i}", str(layer))] = Slot(row.path, layer, row.transform, shape)
    return found


def problems(
    expected: Mapping[str, Slot], found: Mapping[str, tuple[int, ...]], spelled: Mapping[str, str] | None = None
) -> str:
    """Missing, unknown and mis-shaped tensors of a file as one text; empty where it fills every slot.

    Args:
        expected: Of the layout.
        found: Shapes by the layout's names.
        spelled: What the file itself calls them, where that is something else.
    """
    spelled = spelled or {}
    kinds = {
        "missing": [f"{name} {list(slot.shape)}" for name, slot in expected.items() if name not in found],
        "unknown": [
            f"{spelled.get(name, name)} {list(shape)}" for name, shape in found.items() if name not in expected
        ],
        "mis-shaped": [
            f"{spelled.get(name, name)} {list(found[name])} instead of {list(slot.shape)}"
            for name, slot in expected.items()
            if name in found and tuple(found[name]) != tuple(slot.shape)
        ],
    }
    # A file of another model differs in every tensor: the first few of each kind tell which model it is.
    return "; ".join(
        f"{len(names)} {kind}: {', '.join(names[:_NAMED])}{', ...' if len(names) > _NAMED else ''}"
        for kind, names in kinds.items()
        if names
    )


def translated(expected: Mapping[str, Slot], read: Callable[[str], np.ndarray]) -> Iterator[tuple[Slot, np.ndarray]]:
    """Every slot with its tensor in our axes, in the mapping's order."""
    for name, slot in expected.items():
        yield slot, slot.transform.to_ours(read(name))


def common_type(one: np.dtype, other: np.dtype) -> np.dtype:
    """A type that holds the values of both. Of the two halves neither holds the other's: that is float32."""
    halves = {np.dtype(np.float16), np.dtype(ml_dtypes.bfloat16)}
    return np.dtype(np.float32) if {one, other} == halves else np.promote_types(one, other)


def gather(parts: Iterable[tuple[Slot, np.ndarray]], shapes: Params) -> Params:
    """Tensors in our axes as a tree of NumPy arrays; a stacked leaf takes a type that holds all of its layers."""
    leaves = flax.traverse_util.flatten_dict(shapes, sep="/")
    tree: dict[str, np.ndarray] = {}
    for slot, tensor in parts:
        if slot.layer is None:
            tree[slot.path] = np.ascontiguousarray(tensor).reshape(tensor.shape)
            continue
        if slot.path not in tree:
            # One buffer per leaf: stacking a list of layers would hold a large model twice.
            tree[slot.path] = np.empty(leaves[slot.path].shape, tensor.dtype)
        leaf = tree[slot.path]
        kind = common_type(leaf.dtype, tensor.dtype)
        tree[slot.path] = leaf if leaf.dtype == kind else leaf.astype(kind)
        tree[slot.path][slot.layer] = tensor
    return flax.traverse_util.unflatten_dict(tree, sep="/")


def scatter(expected: Mapping[str, Slot], tree: Params) -> Iterator[tuple[str, np.ndarray]]:
    """(torch name, array) for every slot; the reverse of :func:`gather`."""
    leaves = flax.traverse_util.flatten_dict(tree, sep="/")
    for name, slot in expected.items():
        leaf = leaves[slot.path]
        yield name, slot.transform.to_torch(np.asarray(leaf if slot.layer is None else leaf[slot.layer]))
