"""Every checkpoint that can be read, as one stream of tensors in our axes.

A :class:`Source` joins files (a model, a vision tower beside it, a projector, a base under a delta), checks all their
names and shapes at once against the config, and then hands the tensors out file by file, so that whoever reads it
holds one tensor at a time.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.hf_config import OWN_KEY, parse_config
from vlm_jax.checkpoints.layouts import (
    CLIP_OTHERS,
    CLIP_RENAMES,
    HF_LLAVA,
    HF_LLAVA_RENAMES,
    PROJECTOR_RENAMES,
    Layout,
    Slot,
    normalised,
    original_llava,
    problems,
    slots,
    with_vocabulary,
)
from vlm_jax.checkpoints.original_config import parse_original_config, vision_of
from vlm_jax.checkpoints.stored import StoredArray
from vlm_jax.checkpoints.tensor_files import TensorFolder
from vlm_jax.checkpoints.vocabulary import padded_rows
from vlm_jax.config import LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.files import read_json
from vlm_jax.models.llava import init_llava
from vlm_jax.parallel.mesh import path_name

LayoutName = Literal["hf", "llava"]

_TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_HF_TABLES = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_PEFT = "base_model."  # What ``non_lora_trainables.bin`` puts before every name, and ``mm_projector.bin`` does not.
_IN_NO_LLAMA = re.compile(r"mm_projector|vision_tower")
_NAMED = 8  # Tensors that a complaint lists.
_FINAL_NORM = "model.norm.weight"
# Mean size of the final norm's scales: between about 1 in a model and about 0.01 in the difference of two.
_LEAST_SCALE = 0.1


class Delta:
    """Weights stored as a difference to a LLaMA (LLaVA ``apply_delta.py``): tensor by tensor, in the stored type.

    The projector and a vision tower are no difference to anything; the token tables may have more rows than the base's,
    and those are taken as they are too.
    """

    def __init__(self, delta: TensorFolder, base: TensorFolder):
        """Raises:
        InputError: The base is not the LLaMA that the delta was made from: its tensors are others or of other shapes.
        """
        self.path, self.shapes, self.dtypes = delta.path, delta.shapes, delta.dtypes
        self.home, self.files = delta.home, [*delta.files, *base.files]
        self._delta, self._base = delta, base
        self._added = normalised(base.shapes, ())
        alone = {name for name in normalised(delta.shapes, ()) if not _IN_NO_LLAMA.search(name)}
        odd = [f"{name} in one of them alone" for name in sorted(alone ^ self._added.keys())]
        for name in sorted(alone & self._added.keys()):
            large, small = delta.shapes[name], base.shapes[name]
            longer = name in _TABLES and large[1:] == small[1:] and large[0] >= small[0]
            if large != small and not longer:
                odd.append(f"{name} {list(small)} under a delta of {list(large)}")
        if odd:
            found = f"{'; '.join(odd[:_NAMED])}{'; ...' if len(odd) > _NAMED else ''}"
            raise InputError(found, "the LLaMA that the delta was made from", file=str(base.path))

    def read(self, name: str) -> np.ndarray:
        delta = self._delta.read(name)
        if name not in self._added:
            return delta
        base = self._base.read(name)
        total = delta.copy()
        total[: len(base)] += base.astype(delta.dtype)
        return total


class NewRows:
    """A token table whose last two rows, ``<im_start>`` and ``<im_end>``, come with a projector's file: alone, or in a
    whole table of which the other rows are not looked at (LLaVA ``initialize_vision_tokenizer``)."""

    def __init__(self, table: "_Place", rows: "_Place", ends: tuple[int, int] | None):
        """Raises:
        InputError: The rows do not fit the table, or its last two are not those of the tokens around an image.
        """
        found, new = table.tensors.shapes[table.name], rows.tensors.shapes[rows.name]
        name = f"{_TABLES[0]} {list(new)}"
        if ends != (found[0] - 2, found[0] - 1):
            ids = f"ids {list(ends)}" if ends else "no mm_use_im_start_end"
            where = f"{ids} in a table of {found[0]} rows in {table.tensors.path}"
            wanted = "<im_start> and <im_end> as the table's last two rows, which these would replace"
            raise InputError(f"{name} over {where}", wanted, file=str(rows.tensors.path))
        if new not in ((2, *found[1:]), found):
            wanted = f"two rows of {list(found[1:])}, or {list(found)} as in {table.tensors.path}"
            raise InputError(name, wanted, file=str(rows.tensors.path))
        self.path, self.home = rows.tensors.path, table.tensors.home
        self.shapes, self.dtypes = table.tensors.shapes, table.tensors.dtypes
        self.files = [*table.tensors.files, *rows.tensors.files]
        self._table, self._rows = table, rows

    def read(self, name: str) -> np.ndarray:
        table = self._table.tensors.read(name).copy()
        table[-2:] = self._rows.tensors.read(self._rows.name)[-2:]
        return table


Tensors = TensorFolder | Delta | NewRows


class _Place(NamedTuple):
    tensors: Tensors
    name: str


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint whose tensors are known to fit.

    Attributes:
        layout: Which of the layouts it has.
        folder: Where its config and tokenizer lie.
        config: Of the tree that the tensors make; without an adapter shape or dtype of its own they keep defaults.
        slots: Torch name -> place in the tree, in reading order.
        places: Torch name -> the file or folder that holds it, and its name there.
    """

    layout: LayoutName
    folder: Path
    config: LlavaConfig
    slots: dict[str, Slot]
    places: Mapping[str, _Place]

    @property
    def files(self) -> list[Path]:
        """Every file of weights that is read, those under a delta included."""
        folders = dict.fromkeys(self.places[name].tensors for name in self.slots)
        return list(dict.fromkeys(file for tensors in folders for file in tensors.files))

    def leaf_dtypes(self) -> dict[str, np.dtype]:
        """Type of every leaf of our tree: one that holds the values of all its layers."""
        found: dict[str, np.dtype] = {}
        for name, slot in self.slots.items():
            place = self.places[name]
            kind = place.tensors.dtypes[place.name]
            found[slot.path] = np.promote_types(found.get(slot.path, kind), kind)
        return found

    def read(self, name: str) -> np.ndarray:
        """A tensor in torch's axes."""
        place = self.places[name]
        return place.tensors.read(place.name)

    def parts(self, skipped: Collection[str] = ()) -> Iterator[tuple[str, Slot, np.ndarray]]:
        """(torch name, slot, tensor in our axes) of every tensor but the skipped ones, file by file.

        Raises:
            InputError: A linear projector is followed by something else than the identity.
        """
        self._check_projector()
        for name, slot in self.slots.items():
            if name not in skipped and not self._is_identity(slot):
                yield name, slot, self._ours(name)

    def stored(self) -> Params:
        """Our tree of :class:`StoredArray`, each of a type that holds all of its layers; errors as in :meth:`parts`."""
        self._check_projector()
        names = {(slot.path, slot.layer): name for name, slot in self.slots.items()}
        dtypes = self.leaf_dtypes()

        def layer_of(path: str, layer: int | None) -> np.ndarray:
            return np.asarray(self._ours(names[path, layer]), dtypes[path])

        def leaf(key_path: Any, shape: jax.ShapeDtypeStruct) -> StoredArray:
            path = path_name(key_path)
            read_layer = functools.partial(layer_of, path)
            if (path, None) in names:
                read = functools.partial(read_layer, None)
            else:
                read = functools.partial(_stacked, shape.shape, dtypes[path], read_layer)
            return StoredArray(shape.shape, dtypes[path], read, read_layer)

        return jax.tree_util.tree_map_with_path(leaf, stored_shapes("llava", self.config))

    def _ours(self, name: str) -> np.ndarray:
        return self.slots[name].transform.to_ours(self.read(name))

    def _is_identity(self, slot: Slot) -> bool:
        """transformers' class always has two matrices: a single one is stored with the identity behind it."""
        return self.config.projector == "linear" and slot.path.startswith("projector/linear2")

    def _check_projector(self) -> None:
        for name, slot in self.slots.items():
            if not self._is_identity(slot):
                continue
            tensor = self._ours(name)
            if (tensor != (np.eye(len(tensor)) if tensor.ndim == 2 else 0)).any():
                raise InputError(
                    f"a second projector matrix that is not the identity ({slot.path}), without an activation before "
                    "it",
                    "the identity in multi_modal_projector.linear_2",
                    file=str(self.folder),
                )


def _stacked(shape: tuple[int, ...], dtype: np.dtype, read_layer: Callable[[int], np.ndarray]) -> np.ndarray:
    """All layers in one buffer: stacking a list of them would hold them twice."""
    whole = np.empty(shape, dtype)
    for layer in range(shape[0]):
        whole[layer] = read_layer(layer)
    return whole


def open_source(
    folder: str | Path,
    vision: Path | None = None,
    projector: Path | None = None,
    base: Path | None = None,
) -> Source:
    """A LLaVA in any layout that this package knows.

    Args:
        folder: transformers' layout (``text_config`` in its config.json) or the original one (``mm_vision_tower``).
        vision: Folder of the CLIP that an original checkpoint leaves out; only its shapes count where it does not.
        projector: A ``mm_projector.bin``, ``non_lora_trainables.bin`` or the same as safetensors; it replaces the
            checkpoint's, and so do token tables in the latter. Of one in the former the rows of ``<im_start>`` and
            ``<im_end>`` are taken.
        base: Folder of the LLaMA that ``folder`` is a delta over.

    Raises:
        InputError: A file is missing or broken; the config describes a model that is not computed here; tensors are
            missing, unknown or mis-shaped (all of them in one message).
    """
    folder = Path(folder)
    raw = read_json(folder / "config.json")
    if "text_config" in raw:
        others = {"--vision": vision, "--projector": projector, "--base": base}
        if odd := ", ".join(name for name, value in others.items() if value is not None):
            raise InputError(odd, "none of them: transformers' layout holds everything", file=str(folder))
        return open_hf(folder)
    if "mm_vision_tower" in raw or vision is not None:
        return _original(folder, raw, vision, projector, base)
    found = f"model_type {raw.get('model_type')!r} without text_config and without mm_vision_tower"
    raise InputError(found, "a LLaVA, or a LLaMA with --vision and --projector", file=str(folder / "config.json"))


def open_hf(folder: Path) -> Source:
    """A LLaVA in transformers' layout; errors as in :func:`open_source`."""
    raw = read_json(folder / "config.json")
    on_file = parse_config(raw, folder / "config.json")
    rows = on_file.language.vocab_size
    vocab_size = raw.get(OWN_KEY, {}).get("vocab_size", rows)
    config = dataclasses.replace(on_file, language=dataclasses.replace(on_file.language, vocab_size=vocab_size))
    tensors = TensorFolder(folder)
    places = _places(tensors, HF_LLAVA_RENAMES)
    if padded_rows(config) != rows or not _is_padding(places, vocab_size):
        # The table was resized, or its padding trained, after it was written here: every row of it may be meant.
        config, vocab_size = on_file, rows
    layout = with_vocabulary(HF_LLAVA, vocab_size, rows)
    return _checked("hf", folder, config, layout, places, tensors.path)


def _is_padding(places: dict[str, _Place], vocab_size: int) -> bool:
    """Whether the tables' rows from ``vocab_size`` on are one row over and over, as they are written here."""
    tables = [places[name] for name in _HF_TABLES if name in places]
    added = [place.tensors.read(place.name)[vocab_size:] for place in tables]
    return all(row.tobytes() == rows[0].tobytes() for rows in added for row in rows)


def _original(folder: Path, raw: dict, vision: Path | None, projector: Path | None, base: Path | None) -> Source:
    model = TensorFolder(folder)
    tensors: Tensors = model if base is None else Delta(model, TensorFolder(base))
    places = _places(tensors, ())
    if vision is not None:
        tower = _places(TensorFolder(vision), CLIP_RENAMES)
        # A tower inside the checkpoint may have been trained on: it goes before the one beside it.
        places = {name: place for name, place in tower.items() if not CLIP_OTHERS.search(name)} | places
    brought: dict[str, _Place] = {}
    if projector is not None:
        places = {name: place for name, place in places.items() if "mm_projector" not in name}
        brought = _places(TensorFolder(projector), PROJECTOR_RENAMES)
    tower_config = vision_of(raw, vision, folder / "config.json")
    two_matrices = "model.mm_projector.2.weight" in places | brought
    config = parse_original_config(raw, folder / "config.json", tower_config, added_ids(folder), two_matrices)
    rows, table = brought.get(_TABLES[0]), places.get(_TABLES[0])
    # Under peft's names a table was trained as a whole, and replaces the model's.
    if rows is not None and table is not None and not rows.name.startswith(_PEFT):
        brought[_TABLES[0]] = _Place(NewRows(table, rows, config.image_ends), table.name)
    places |= brought
    if not any("vision_tower" in name for name in places):
        found, wanted = "no vision tower in it", f"--vision with a folder of {raw.get('mm_vision_tower')}"
        raise InputError(found, wanted, file=str(model.path))
    source = _checked("llava", folder, config, original_llava(config.projector), places, model.path)
    if base is None:
        _check_no_delta(source, model.path)
    return source


def _check_no_delta(source: Source, file: Path) -> None:
    """Deltas have the names, shapes and config of a model; only their values tell."""
    scale = float(np.abs(source.read(_FINAL_NORM).astype(np.float32)).mean())
    if scale < _LEAST_SCALE:
        found = f"a final norm whose scales are {scale:.3g} on average: weights stored as a difference to a LLaMA"
        raise InputError(found, "--base with the folder of that LLaMA", file=str(file))


def added_ids(folder: Path) -> dict[str, Any]:
    """Ids of the tokens that were added to LLaMA's vocabulary, ``<im_start>`` for one."""
    path = folder / "added_tokens.json"
    return read_json(path) if path.exists() else {}


def _places(tensors: Tensors, renames: tuple[tuple[str, str], ...]) -> dict[str, _Place]:
    return {name: _Place(tensors, here) for name, here in normalised(tensors.shapes, renames).items()}


def _checked(
    name: LayoutName, folder: Path, config: LlavaConfig, layout: Layout, places: dict[str, _Place], file: Path
) -> Source:
    expected = slots(layout, stored_shapes(name, config))
    found = {name: place.tensors.shapes[place.name] for name, place in places.items()}
    if trouble := problems(expected, found):
        raise InputError(trouble, "the tensors that config.json describes", file=str(file))
    ordered = sorted(expected, key=lambda one: str(places[one].tensors.home[places[one].name]))
    return Source(name, folder, config, {one: expected[one] for one in ordered}, places)


def stored_shapes(layout: LayoutName, config: LlavaConfig) -> Params:
    """Shapes of everything a layout's file holds: transformers' has two projector matrices in any case."""
    stored = dataclasses.replace(config, projector="mlp") if layout == "hf" else config
    return jax.eval_shape(functools.partial(init_llava, stored), jax.random.key(0))
