"""Every checkpoint that can be read, as one stream of tensors in our axes.

A :class:`Source` joins files (a model, a vision tower beside it, a projector, a base under a delta), checks all their
names and shapes at once against the config, and then hands the tensors out file by file, so that whoever reads it
holds one tensor at a time.
"""

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.finite import finite
from vlm_jax.checkpoints.foreign_tensors import refuse_no_projector, refuse_quantised, refuse_wrapped
from vlm_jax.checkpoints.hf_config import OWN_KEY, is_tied, parse_config
from vlm_jax.checkpoints.layouts import (
    CLIP_OTHERS,
    CLIP_RENAMES,
    HF_LLAVA,
    HF_LLAVA_RENAMES,
    PROJECTOR_RENAMES,
    Layout,
    Slot,
    common_type,
    normalised,
    original_llava,
    problems,
    slots,
    with_vocabulary,
)
from vlm_jax.checkpoints.original_config import check_original_config, parse_original_config, vision_of
from vlm_jax.checkpoints.overlays import TABLES, Delta, NewRows, Place, Tensors
from vlm_jax.checkpoints.special_ids import said_in, settle, tokenizer_beside
from vlm_jax.checkpoints.stored import StoredArray
from vlm_jax.checkpoints.template_choice import choose_template
from vlm_jax.checkpoints.tensor_files import TensorFolder
from vlm_jax.checkpoints.vocabulary import padded_rows
from vlm_jax.config import LlavaConfig, TemplateName
from vlm_jax.data.conversation import Tokenizer
from vlm_jax.errors import InputError
from vlm_jax.files import read_json
from vlm_jax.models.llava import init_llava
from vlm_jax.parallel.mesh import path_name

LayoutName = Literal["hf", "llava"]

_HF_TABLES = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
_PEFT = "base_model."  # What ``non_lora_trainables.bin`` puts before every name, and ``mm_projector.bin`` does not.
_FINAL_NORM = "model.norm.weight"
# Mean size of the final norm's scales: between about 1 in a model and about 0.01 in the difference of two.
_LEAST_SCALE = 0.1


@dataclasses.dataclass(frozen=True)
class Source:
    """A checkpoint whose tensors are known to fit.

    Attributes:
        layout: Which of the layouts it has.
        folder: Where its config and tokenizer lie.
        config: Of the tree that the tensors make; without an adapter shape or dtype of its own they keep defaults.
        slots: Torch name -> place in the tree, in reading order.
        places: Torch name -> the file or folder that holds it, and its name there.
        remarks: What its files leave open or get wrong and how it was decided, a line each.
    """

    layout: LayoutName
    folder: Path
    config: LlavaConfig
    slots: dict[str, Slot]
    places: Mapping[str, Place]
    remarks: tuple[str, ...] = ()

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
            found[slot.path] = common_type(found.get(slot.path, kind), kind)
        return found

    def mixed_types(self) -> list[str]:
        """Leaves whose layers have several types, and what all of them are read as."""
        kinds: dict[str, set[str]] = {}
        for name, slot in self.slots.items():
            place = self.places[name]
            kinds.setdefault(slot.path, set()).add(str(place.tensors.dtypes[place.name]))
        return [
            f"{path} is {' and '.join(sorted(kinds[path]))} in its layers: {kind} for all of them"
            for path, kind in self.leaf_dtypes().items()
            if len(kinds[path]) > 1
        ]

    def read(self, name: str) -> np.ndarray:
        """A tensor in torch's axes."""
        place = self.places[name]
        return place.tensors.read(place.name)

    def parts(self, skipped: Collection[str] = ()) -> Iterator[tuple[str, Slot, np.ndarray]]:
        """(torch name, slot, tensor in our axes) of every tensor but the skipped ones, file by file.

        Raises:
            InputError: A linear projector is followed by something else than the identity, or a value is no finite
                number.
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
        place = self.places[name]
        return self.slots[name].transform.to_ours(finite(place.name, self.read(name), place.home))

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
                    file=str(self.places[name].home),
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
    tokenizer: Tokenizer | None = None,
    template: TemplateName | None = None,
) -> Source:
    """A LLaVA in any layout that this package knows.

    Args:
        folder: transformers' layout (``text_config`` in its config.json) or the original one (``mm_vision_tower``).
        vision: Folder of the CLIP that an original checkpoint leaves out; only its shapes count where it does not.
        projector: A ``mm_projector.bin``, ``non_lora_trainables.bin`` or the same as safetensors; it replaces the
            checkpoint's, and so do token tables in the latter. Of one in the former the rows of ``<im_start>`` and
            ``<im_end>`` are taken.
        base: Folder of the LLaMA that ``folder`` is a delta over.
        tokenizer: The one that goes with it; without, the one in its folder, if there is one.
        template: How its conversations are written out; without, as its config or its tokenizer says.

    Raises:
        InputError: A file is missing or broken; the config describes a model that is not computed here; tensors are
            missing, unknown or mis-shaped (all of them in one message); the tokenizer is another model's.
    """
    folder = Path(folder)
    raw = read_json(folder / "config.json")
    if "text_config" in raw:
        others = {"--vision": vision, "--projector": projector, "--base": base}
        if odd := ", ".join(name for name, value in others.items() if value is not None):
            raise InputError(odd, "none of them: transformers' layout holds everything", file=str(folder))
        return open_hf(folder, tokenizer, template)
    if "mm_vision_tower" in raw or vision is not None:
        return _settled(_original(folder, raw, vision, projector, base), raw, tokenizer, template)
    found = f"model_type {raw.get('model_type')!r} without text_config and without mm_vision_tower"
    raise InputError(found, "a LLaVA, or a LLaMA with --vision and --projector", file=str(folder / "config.json"))


def _settled(
    source: Source, raw: Mapping[str, Any], tokenizer: Tokenizer | None, template: TemplateName | None = None
) -> Source:
    """With the ids of special tokens that its tokenizer has, and the template that its conversations are written by."""
    said = said_in(raw, source.folder)
    tokenizer = tokenizer or tokenizer_beside(source.folder)
    config, remarks = settle(source.config, said, tokenizer, source.folder)
    config = dataclasses.replace(config, template=choose_template(raw, tokenizer, template, source.folder))
    return dataclasses.replace(source, config=config, remarks=source.remarks + remarks)


def open_hf(folder: Path, tokenizer: Tokenizer | None = None, template: TemplateName | None = None) -> Source:
    """A LLaVA in transformers' layout; errors as in :func:`open_source`."""
    raw = read_json(folder / "config.json")
    on_file = parse_config(raw, folder / "config.json")
    rows = on_file.language.vocab_size
    vocab_size = raw.get(OWN_KEY, {}).get("vocab_size", rows)
    config = dataclasses.replace(on_file, language=dataclasses.replace(on_file.language, vocab_size=vocab_size))
    tensors = TensorFolder(folder)
    places = _tied(raw, _places(tensors, HF_LLAVA_RENAMES), *_HF_TABLES)
    if padded_rows(config) != rows or not _is_padding(places, vocab_size):
        # The table was resized, or its padding trained, after it was written here: every row of it may be meant.
        config, vocab_size = on_file, rows
    layout = with_vocabulary(HF_LLAVA, vocab_size, rows)
    return _settled(_checked("hf", folder, config, layout, places, {"": tensors.path}), raw, tokenizer, template)


def _is_padding(places: dict[str, Place], vocab_size: int) -> bool:
    """Whether the tables' rows from ``vocab_size`` on are one row over and over, as they are written here."""
    tables = [places[name] for name in _HF_TABLES if name in places]
    added = [place.tensors.read(place.name)[vocab_size:] for place in tables]
    return all(row.tobytes() == rows[0].tobytes() for rows in added for row in rows)


def _original(folder: Path, raw: dict, vision: Path | None, projector: Path | None, base: Path | None) -> Source:
    check_original_config(raw, folder / "config.json")
    model = TensorFolder(folder)
    tensors: Tensors = model if base is None else Delta(model, TensorFolder(base))
    places = _places(tensors, ())
    if vision is not None:
        tower = _places(TensorFolder(vision), CLIP_RENAMES)
        # A tower inside the checkpoint may have been trained on: it goes before the one beside it.
        places = {name: place for name, place in tower.items() if not CLIP_OTHERS.search(name)} | places
    brought: dict[str, Place] = {}
    if projector is not None:
        places = {name: place for name, place in places.items() if "mm_projector" not in name}
        brought = _places(TensorFolder(projector), PROJECTOR_RENAMES)
        refuse_no_projector(brought, projector)
    tower_config = vision_of(raw, vision, folder / "config.json")
    refuse_wrapped(model)
    if projector is None and not any("mm_projector" in name for name in places):
        raise InputError("no projector in it", "--projector with its mm_projector.bin", file=str(model.path))
    second = (places | brought).get("model.mm_projector.2.weight")
    maps = second or (places | brought).get("model.mm_projector.weight")
    config = parse_original_config(
        raw, folder / "config.json", tower_config, added_ids(folder), second is not None, maps and maps.home
    )
    rows, table = brought.get(TABLES[0]), places.get(TABLES[0])
    # Under peft's names a table was trained as a whole, and replaces the model's.
    if rows is not None and table is not None and not rows.name.startswith(_PEFT):
        brought[TABLES[0]] = Place(NewRows(table, rows, config.image_ends), table.name)
    places |= brought
    if not any("vision_tower" in name for name in places):
        found, wanted = "no vision tower in it", f"--vision with a folder of {raw.get('mm_vision_tower')}"
        raise InputError(found, wanted, file=str(model.path))
    files = {"mm_projector": projector or model.path, "vision_tower": vision or model.path, "": model.path}
    places = _tied(raw, places, *TABLES)
    source = _checked("llava", folder, config, original_llava(config.projector), places, files)
    if base is None:
        _check_no_delta(source)
    return source


def _check_no_delta(source: Source) -> None:
    """Deltas have the names, shapes and config of a model; only their values tell."""
    scale = float(np.abs(source.read(_FINAL_NORM).astype(np.float32)).mean())
    if scale < _LEAST_SCALE:
        found = f"a final norm whose scales are {scale:.3g} on average: weights stored as a difference to a LLaMA"
        raise InputError(found, "--base with the folder of that LLaMA", file=str(source.places[_FINAL_NORM].home))


def added_ids(folder: Path) -> dict[str, Any]:
    """Ids of the tokens that were added to LLaMA's vocabulary, ``<im_start>`` for one."""
    path = folder / "added_tokens.json"
    return read_json(path) if path.exists() else {}


def _places(tensors: Tensors, renames: tuple[tuple[str, str], ...]) -> dict[str, Place]:
    return {name: Place(tensors, here) for name, here in normalised(tensors.shapes, renames).items()}


def _tied(raw: Mapping[str, Any], places: dict[str, Place], table: str, head: str) -> dict[str, Place]:
    """With the token table as the head where the config says that they are one."""
    return {**places, head: places[table]} if is_tied(raw) and table in places else places


def _checked(
    name: LayoutName,
    folder: Path,
    config: LlavaConfig,
    layout: Layout,
    places: dict[str, Place],
    files: Mapping[str, Path],
) -> Source:
    """``files`` says where tensors whose names hold a text would lie; the entry "" is for all others."""
    # Before a name is made for each of them.
    if (layers := config.language.layers + config.vision.layers) > len(places):
        found = f"{layers} layers, more than the {len(places)} tensors of {folder}"
        raise InputError(found, "the shapes of these tensors", file=str(folder / "config.json"))
    expected = slots(layout, stored_shapes(name, config))
    refuse_quantised(places, expected)
    by_file: dict[Path, set[str]] = {}
    for one in expected.keys() | places.keys():
        home = places[one].home if one in places else next(files[part] for part in files if part in one)
        by_file.setdefault(home, set()).add(one)
    found = {one: place.tensors.shapes[place.name] for one, place in places.items()}
    spelled = {one: place.name for one, place in places.items()}
    odd: dict[str, str] = {}
    for file, names in by_file.items():
        here = {one: slot for one, slot in expected.items() if one in names}
        there = {one: shape for one, shape in found.items() if one in names}
        if complaint := problems(here, there, spelled):
            odd[str(file)] = complaint
    if odd:
        (first, complaint), *others = sorted(odd.items())
        found_all = "; ".join([complaint, *(f"in {file} {text}" for file, text in others)])
        raise InputError(found_all, "the tensors that config.json describes", file=first)
    ordered = sorted(expected, key=lambda one: str(places[one].home))
    source = Source(name, folder, config, {one: expected[one] for one in ordered}, places)
    return dataclasses.replace(source, remarks=tuple(source.mixed_types()))


@functools.cache
def stored_shapes(layout: LayoutName, config: LlavaConfig) -> Params:
    """Shapes of everything a layout's file holds: transformers' has two projector matrices in any case."""
    stored = dataclasses.replace(config, projector="mlp") if layout == "hf" else config
    return jax.eval_shape(functools.partial(init_llava, stored), jax.random.key(0))
