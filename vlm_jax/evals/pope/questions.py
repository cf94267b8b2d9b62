"""POPE's questions from any annotation of objects, as POPE's own builder (``main.py``, ``utils.py``) makes them, with
its draws from Python's ``random``.

For each of the first few objects of an image: a question about it, and one about an object that is neither in the image
nor asked about before. The settings differ in how that one is picked: at random, the most frequent, or the one that
most often stands beside the object asked for. Frequencies are counted on the images that are asked about.
"""

import collections
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from vlm_jax.data.rows import iter_rows
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, read_lines

Setting = Literal["random", "popular", "adversarial"]


def read_annotations(path: Path) -> dict[str, list[str]]:
    """Image -> its objects in their order, from a JSON object of lists or from rows of ``image`` and ``objects``
    (POPE's own format for segmentation results).

    Raises:
        InputError: The file holds something else, or an image twice.
    """
    if _holds_rows(path):
        found: dict[str, Any] = {}
        for row in iter_rows(path):
            image = row.string("image")
            if image in found:
                raise row.wrong(f"image {image} for the second time", "one row an image")
            found[image] = row.require("objects")
    else:
        found = read_json(path, unique=True)
    for image, objects in found.items():
        if not isinstance(objects, list) or not all(isinstance(one, str) for one in objects):
            raise InputError(f"{str(objects)[:60]} under image {image}", "a list of objects", file=str(path))
    return found


def _holds_rows(path: Path) -> bool:
    first = next((line for line in read_lines(path) if line.strip()), "").strip()
    try:
        value = json.loads(first)
    except (ValueError, RecursionError):
        # A list or an object over many lines, or an error that its reader explains.
        return first.startswith("[")
    return isinstance(value, list) or (isinstance(value, dict) and "image" in value)


def sample_images(
    images: Mapping[str, Sequence[str]], count: int, per_image: int, rng: random.Random
) -> dict[str, Sequence[str]]:
    """Images with enough objects, drawn without replacement; all of them where there are too few.

    Raises:
        InputError: There is none.
    """
    eligible = [name for name, objects in images.items() if len(objects) >= per_image]
    if not eligible:
        raise InputError(f"no image with {per_image} objects", "one at least")
    chosen = rng.sample(eligible, count) if count < len(eligible) else eligible
    return {name: images[name] for name in chosen}


def build(
    images: Mapping[str, Sequence[str]],
    setting: Setting,
    rng: random.Random,
    per_image: int = 3,
    legacy_typo: bool = False,
) -> list[dict[str, Any]]:
    """Rows of ``question_id``, ``image``, ``text`` and ``label``; yes and no in turn.

    Args:
        images: Image -> its objects; with fewer than ``per_image`` it gets fewer questions.
        setting: How absent objects are picked.
        rng: Of the draws.
        per_image: Objects of an image that are asked for.
        legacy_typo: ImageQuestion "Is there an orange in the imange?", as the files of 2023 do.

    Raises:
        InputError: An image has every object there is, so that no absent one is left.
    """
    frequency = collections.Counter(one for objects in images.values() for one in objects)
    beside: dict[str, collections.Counter[str]] = {one: collections.Counter() for one in frequency}
    for objects in images.values():
        for one in objects:
            beside[one].update(other for other in objects if other != one)
    vocabulary = list(frequency)
    by_frequency = _ranked(frequency)
    rankings = {
        "random": lambda positive: [],
        "popular": lambda positive: by_frequency,
        "adversarial": lambda positive: _ranked(beside[positive]),
    }
    rows: list[dict[str, Any]] = []
    for image, objects in images.items():
        asked = set(objects)
        for positive in objects[:per_image]:
            if asked.issuperset(vocabulary):
                found = f"image {image} with all of the {len(vocabulary)} objects in it or asked about before"
                raise InputError(found, "one more that it lacks, or fewer questions an image")
            absent = next(_candidates(rankings[setting](positive), vocabulary, asked, rng))
            asked.add(absent)
            for one, label in ((positive, "yes"), (absent, "no")):
                text = _question(one, legacy_typo)
                rows.append({"question_id": len(rows) + 1, "image": image, "text": text, "label": label})
    return rows


def _ranked(counts: Mapping[str, int]) -> list[str]:
    """Most first, equal ones as they came."""
    return sorted(counts, key=lambda one: -counts[one])


def _candidates(ranking: Sequence[str], vocabulary: list[str], asked: set[str], rng: random.Random) -> Iterator[str]:
    yield from (one for one in ranking if one not in asked)
    while True:
        if (one := rng.choice(vocabulary)) not in asked:
            yield one


def _question(name: str, legacy_typo: bool) -> str:
    template = "Is there a {} in the image?"
    if name[:1] in tuple("aeiou"):
        # The builder replaced every "a" of the sentence.
        template = template.replace("a", "an") if legacy_typo else template.replace(" a ", " an ")
    return template.format(name)
