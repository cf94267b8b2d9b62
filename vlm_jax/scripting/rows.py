"""What a script hands in as rows: images of every kind, one or many of each thing, checked before a model sees them."""

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.images import Source, load_image
from vlm_jax.data.rows import Origin
from vlm_jax.data.sources import Prompt
from vlm_jax.errors import InputError

# A picture, its file, the file's bytes, its pixels, or no picture.
Picture = Image.Image | np.ndarray | str | Path | bytes | None


def prompts(columns: Mapping[str, list[Any]], as_transformers: bool = False) -> list[Prompt]:
    """Rows of :func:`aligned` columns ``images`` and ``questions``, and ``facts`` where there are any.

    Args:
        columns: Of one length.
        as_transformers: Whose RGB is made of images, see :func:`vlm_jax.data.images.load_image`.

    Raises:
        InputError: An image, a question or facts are of no kind that is read; names column and row. Files are read
            later, and what is wrong with them is told in the same way.
    """
    # One picture for many questions is prepared once.
    sources: dict[int, Source | None] = {}
    made = []
    for number, (image, question) in enumerate(zip(columns["images"], columns["questions"], strict=True), 1):
        facts = columns["facts"][number - 1] if "facts" in columns else None
        if id(image) not in sources:
            sources[id(image)] = _source(image, number, as_transformers)
        with _column("questions", number):
            turn = _turn(question, image)
        with _column("facts", number):
            _check_facts(facts)
        made.append(
            Prompt(
                id=str(number),
                image=sources[id(image)],
                turns=(turn,),
                origin=Origin("questions", number),
                facts=None if facts is None else tuple(facts),
            )
        )
    return made


def aligned(**columns: Any) -> dict[str, list[Any]]:
    """Columns of one length: a list, a tuple or an array [n, ...] of images is one entry a row, all else is repeated.

    Raises:
        InputError: Lists differ in length; names them.
    """
    many = {name: list(value) for name, value in columns.items() if _is_many(value)}
    if len({len(rows) for rows in many.values()}) > 1:
        found = ", ".join(f"{len(rows)} {name}" for name, rows in many.items())
        raise InputError(found, "as many of each, or a single one for all")
    count = len(next(iter(many.values()), [None]))
    return {name: many.get(name, [value] * count) for name, value in columns.items()}


def texts(name: str, values: list[Any]) -> list[str]:
    """The values.

    Raises:
        InputError: One is no text; names the row.
    """
    for number, value in enumerate(values, 1):
        if not isinstance(value, str):
            raise InputError(f"a {type(value).__name__}", "a text", file=name, row=number)
    return values


@contextmanager
def _column(name: str, row: int) -> Iterator[None]:
    try:
        yield
    except InputError as error:
        raise error.at(name, row) from None


def _is_many(value: Any) -> bool:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim == 4)


def _turn(question: Any, image: Any) -> Turn:
    if not isinstance(question, str):
        raise InputError(f"a question of type {type(question).__name__}", "a text")
    if not question.replace(IMAGE, "").strip():
        raise InputError(f"a question without text ({question!r:.40})", "a question")
    if question.count(IMAGE) > 1:
        raise InputError(
            f"{question.count(IMAGE)} times {IMAGE} in a question", "one picture, and its marker once or not at all"
        )
    if image is None and IMAGE in question:
        raise InputError(f"{IMAGE} in a question without an image", "an image, or a question without the marker")
    return Turn("human", question if image is None else f"{IMAGE}\n{question}")


def _check_facts(facts: Any) -> None:
    if facts is not None and not (isinstance(facts, list | tuple) and all(isinstance(fact, str) for fact in facts)):
        raise InputError(f"facts {facts!r:.60}", "a list of sentences for each row, or None")


def _source(image: Any, row: int, as_transformers: bool) -> Source | None:
    """Where the pipelines read an image from; pixels in memory are checked and converted here."""
    with _column("images", row):
        if isinstance(image, np.ndarray):
            image = _from_array(image)
        if isinstance(image, Image.Image):
            opened = image
            upright = _upright(lambda: opened, as_transformers)
            return lambda: upright
        if isinstance(image, str | Path | bytes):
            return _Encoded(image, as_transformers, row)
        if image is None:
            return None
        raise InputError(f"an image of type {type(image).__name__}", "a PIL image, a path, bytes, an array or None")


def _upright(source: Source, as_transformers: bool) -> Image.Image:
    """As :func:`load_image` has it, without the EXIF that would turn it once more when a pipeline loads it again."""
    return Image.fromarray(np.asarray(load_image(source, as_transformers)))


@dataclasses.dataclass(frozen=True)
class _Encoded:
    """Opens an image when it is called.

    Attributes:
        image: Its file, or the file's bytes.
        as_transformers: Whose RGB is made of it.
        row: The first that shows it; without a part in which are equal, so that none is prepared twice.
    """

    image: str | Path | bytes
    as_transformers: bool
    row: int = dataclasses.field(compare=False)

    def __call__(self) -> Image.Image:
        try:
            return _upright(self.image, self.as_transformers)
        except InputError as error:
            placed = error.at("images", self.row)
            raise _ImageError(placed.found, placed.expected, file=placed.file, row=placed.row) from None


class _ImageError(InputError):
    """Stays in its column: the pipelines place errors where the row's question stands."""

    def at(self, file: str, row: int | None = None) -> "_ImageError":
        return self


def _from_array(pixels: np.ndarray) -> Image.Image:
    grey, colour = pixels.ndim == 2, pixels.ndim == 3 and pixels.shape[-1] == 3
    if pixels.dtype != np.uint8 or not (grey or colour) or pixels.size == 0:
        raise InputError(f"an image of {pixels.dtype} {list(pixels.shape)}", "uint8 pixels [h, w, 3] or [h, w]")
    return Image.fromarray(pixels)
