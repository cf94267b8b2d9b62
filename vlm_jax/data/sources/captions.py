"""Captions of images: the facts that a reward model may read."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from vlm_jax.data.rows import Origin, Row
from vlm_jax.files import read_json

Captions = Mapping[str, Sequence[str]]


def read_captions(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Image name -> captions (``image_to_caption.json``; A-OKVQA rationales under "aok_" + name)."""
    captions = {}
    for number, (name, values) in enumerate(read_json(path).items(), 1):
        row = Row(Origin(str(path), number), {})
        if not isinstance(values, list) or not values:
            raise row.wrong(f"{values!r:.40} for {name!r}", "a list of captions")
        captions[name] = tuple(row.filled(value, f"a caption of {name!r}") for value in values)
    return captions


def facts_of(row: Row, name: str | None, captions: Captions | None, prefix: str = "") -> tuple[str, ...] | None:
    """The captions of a row's image, under its name or the last part of it; None without captions or an image.

    Raises:
        InputError: There are captions, but none of this image.
    """
    if captions is None or name is None:
        return None
    for key in (prefix + name, prefix + Path(name).name):
        if key in captions:
            return tuple(captions[key])
    raise row.wrong(f"no captions for {prefix + name!r}", "an entry in the captions file")
