"""Tensors of one checkpoint out of two sources: a delta over a LLaMA, new rows in a token table."""

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vlm_jax.checkpoints.layouts import common_type, normalised
from vlm_jax.checkpoints.tensor_files import TensorFolder
from vlm_jax.errors import InputError

TABLES = ("model.embed_tokens.weight", "lm_head.weight")
_IN_NO_LLAMA = re.compile(r"mm_projector|vision_tower")
_NAMED = 8  # Tensors that a complaint lists.


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
        homes = delta.home | base.home
        odd = {name: f"{name} in {homes[name]} alone" for name in sorted(alone ^ self._added.keys())}
        for name in sorted(alone & self._added.keys()):
            large, small = delta.shapes[name], base.shapes[name]
            longer = name in TABLES and large[1:] == small[1:] and large[0] >= small[0]
            if large != small and not longer:
                odd[name] = f"{name} {list(small)} under a delta of {list(large)} in {delta.home[name]}"
        if odd:
            found = f"{'; '.join([*odd.values()][:_NAMED])}{'; ...' if len(odd) > _NAMED else ''}"
            wanted = f"the LLaMA that the delta in {delta.path} was made from"
            raise InputError(found, wanted, file=str(base.home.get(next(iter(odd)), base.path)))

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

    def __init__(self, table: "Place", rows: "Place", ends: tuple[int, int] | None):
        """Raises:
        InputError: The rows do not fit the table, or its last two are not those of the tokens around an image.
        """
        found, new = table.tensors.shapes[table.name], rows.tensors.shapes[rows.name]
        name = f"{TABLES[0]} {list(new)}"
        if ends != (found[0] - 2, found[0] - 1):
            ids = f"ids {list(ends)}" if ends else "no mm_use_im_start_end"
            where = f"{ids} in a table of {found[0]} rows in {table.home}"
            wanted = "<im_start> and <im_end> as the table's last two rows, which these would replace"
            raise InputError(f"{name} over {where}", wanted, file=str(rows.tensors.path))
        if new not in ((2, *found[1:]), found):
            wanted = f"two rows of {list(found[1:])}, or {list(found)} as in {table.home}"
            raise InputError(name, wanted, file=str(rows.tensors.path))
        self.path, self.home = rows.tensors.path, table.tensors.home
        kinds = (place.tensors.dtypes[place.name] for place in (table, rows))
        self.shapes = table.tensors.shapes
        self.dtypes = {**table.tensors.dtypes, table.name: common_type(*kinds)}
        self.files = [*table.tensors.files, *rows.tensors.files]
        self._table, self._rows = table, rows

    def read(self, name: str) -> np.ndarray:
        table = self._table.tensors.read(name).astype(self.dtypes[name])
        table[-2:] = self._rows.tensors.read(self._rows.name)[-2:]
        return table


Tensors = TensorFolder | Delta | NewRows


class Place(NamedTuple):
    tensors: Tensors
    name: str

    @property
    def home(self) -> Path:
        """The file that holds it."""
        return self.tensors.home[self.name]
