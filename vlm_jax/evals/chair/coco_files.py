"""COCO's annotation files: one JSON object with lists of images, categories and annotations."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from vlm_jax.errors import InputError
from vlm_jax.files import read_json


class Outlined(NamedTuple):
    """An object of an image, by the name of its category."""

    image_id: int
    category: str


class Described(NamedTuple):
    image_id: int
    caption: str


def read_instances(path: Path) -> list[Outlined]:
    """``instances_*.json``.

    Raises:
        InputError: The file has no such lists, or an annotation lacks a field or names an unknown category.
    """
    raw = read_json(path)
    names = {one["id"]: one["name"] for one in _entries(path, raw, "categories", id=int, name=str)}
    found = []
    for row, one in enumerate(_entries(path, raw, "annotations", image_id=int, category_id=int), 1):
        if one["category_id"] not in names:
            raise InputError(f"category_id {one['category_id']}", "an id among the categories", file=str(path), row=row)
        found.append(Outlined(one["image_id"], names[one["category_id"]]))
    return found


def read_captions(path: Path) -> list[Described]:
    """``captions_*.json``; errors as in :func:`read_instances`."""
    entries = _entries(path, read_json(path), "annotations", image_id=int, caption=str)
    return [Described(one["image_id"], one["caption"]) for one in entries]


def _entries(path: Path, raw: dict[str, Any], key: str, **fields: type) -> Iterator[dict[str, Any]]:
    rows = raw.get(key)
    if not isinstance(rows, list):
        raise InputError(f"no list {key!r} among {sorted(raw)}", "COCO's annotations", file=str(path))
    for number, row in enumerate(rows, 1):
        if not isinstance(row, dict) or any(type(row.get(name)) is not kind for name, kind in fields.items()):
            wanted = ", ".join(f"{name} ({kind.__name__})" for name, kind in fields.items())
            raise InputError(f"{key} {str(row)[:60]}", wanted, file=str(path), row=number)
        yield row
