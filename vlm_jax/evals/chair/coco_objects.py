"""Which of COCO's 80 objects a caption names, and which ones an image has: the two halves of CHAIR.

Two ways to read a caption:

    official    as CHAIR's own script: one word or two, only the second time round its tables ("bus" becomes "bu" and
                never counts, "glass" and "tennis" are mangled, names of three words or with a stray space are dead),
                and the place of a mention behind a "toilet seat" is off by the words that were dropped
    corrected   the same procedure without those slips
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from vlm_jax.errors import InputError
from vlm_jax.evals.chair.coco_files import Described, Outlined
from vlm_jax.evals.reading.english import singular, tokens
from vlm_jax.files import read_json, read_text

Reading = Literal["official", "corrected"]
NAMES_FILE = Path(__file__).with_name("coco_names.json")

_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub".split()
# Read as one word. Some are no objects ("home plate"): they only keep their parts from counting.
_PAIRS = """
    air plane, baseball bat, baseball glove, cell phone, fire hydrant, hair drier, home plate, hot dog,
    laptop computer, mobile phone, motor bike, motor cycle, parking meter, potted plant, sports ball,
    stop light, stop sign, stove top oven, street light, suit case, teddy bear, tennis racket, traffic light,
    traffic signal, train track, wine glass
""".split(",")
_MERGED = (
    {pair.strip(): pair.strip() for pair in _PAIRS}
    # "baby bird" is no person.
    | {f"{age} {animal}": animal for age in ("baby", "adult") for animal in _ANIMALS}
    | {f"passenger {vehicle}": vehicle for vehicle in ("jet", "train")}
    | {"bow tie": "tie", "toilet seat": "toilet"}
)
_OFFICIAL_MERGED = _MERGED | {"wine glas": "wine glass"}


class Mention(NamedTuple):
    """``word`` of a caption that stands for ``object``; ``place`` counts its tokens from 0."""

    word: str
    object: str
    place: int


@dataclasses.dataclass(frozen=True)
class ObjectNames:
    """``official``: name -> object, as the table spells it."""

    official: Mapping[str, str]

    @functools.cached_property
    def corrected(self) -> dict[str, str]:
        """In lower case and without stray spaces."""
        return {" ".join(name.lower().split()): node for name, node in self.official.items()}

    @functools.cached_property
    def merged(self) -> dict[str, str]:
        """Words that the corrected reading joins -> as what."""
        return _MERGED | {name: name for name in self.corrected if " " in name and name not in _MERGED}

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """Words that the corrected reading takes for a singular."""
        return frozenset(word for name in (*self.corrected, *self.merged) for word in name.split())


def read_names(path: Path = NAMES_FILE) -> ObjectNames:
    """A table of names: JSON of object -> other names, or CHAIR's ``synonyms.txt`` (a line an object, its names apart
    by a comma and a space).

    Raises:
        InputError: The file is neither.
    """
    if path.suffix == ".json":
        rows = []
        for node, others in read_json(path).items():
            if not isinstance(others, list) or not all(isinstance(other, str) for other in others):
                raise InputError(f"{others!r} under {node!r}", "a list of names", file=str(path))
            rows.append([node, *others])
    else:
        rows = [line.strip().split(", ") for line in read_text(path).splitlines() if line.strip()]
    if not rows:
        raise InputError("no names", "a line for each object", file=str(path))
    # A name of two objects is the later one's.
    return ObjectNames({name: names[0] for names in rows for name in names})


class Reader:
    """Captions to mentions, by one table in one reading."""

    def __init__(self, names: ObjectNames, reading: Reading = "official"):
        self._official = reading == "official"
        self._names = names
        self._objects = names.official if self._official else names.corrected
        self._merged = _OFFICIAL_MERGED if self._official else names.merged
        self._longest = 2 if self._official else max(name.count(" ") + 1 for name in self._merged)
        # A quick look before words are joined.
        self._first = {name.split()[0] for name in self._merged}

    def words(self, caption: str) -> tuple[list[str], list[int]]:
        """Singular words, some of them joined, and where each begins among the caption's tokens."""
        made = [self._singular(token) for token in tokens(caption.lower())]
        words, places, place = [], [], 0
        while place < len(made):
            size, word = self._joined(made, place)
            words.append(word)
            places.append(place)
            place += size
        return words, places

    def mentions(self, caption: str) -> list[Mention]:
        """The objects that a caption names, in order, repeats included."""
        return self.mentions_among(*self.words(caption))

    def mentions_among(self, words: list[str], places: list[int]) -> list[Mention]:
        """:meth:`mentions`, from :meth:`words`."""
        # "The seat of the toilet" is no chair.
        seatless = "toilet" in words and "seat" in words
        kept = [(word, place) for word, place in zip(words, places, strict=True) if not (seatless and word == "seat")]
        if self._official:
            kept = [(word, places[number]) for number, (word, _) in enumerate(kept)]
        return [Mention(word, self._objects[word], place) for word, place in kept if word in self._objects]

    def object_named(self, name: str) -> str:
        """The object that an annotator's category is.

        Raises:
            InputError: It is none of the names.
        """
        if name not in self._objects:
            raise InputError(f"category {name!r}", "a name in the table of objects")
        return self._objects[name]

    def _singular(self, token: str) -> str:
        if self._official:
            return singular(token)
        known = self._names.known
        if token in known:
            return token
        # "ties": the rules know no word that ends in ie.
        return token[:-1] if token.endswith("ies") and token[:-1] in known else singular(token)

    def _joined(self, words: list[str], place: int) -> tuple[int, str]:
        if words[place] in self._first:
            for size in range(self._longest, 1, -1):
                if (word := self._merged.get(" ".join(words[place : place + size]))) is not None:
                    return min(size, len(words) - place), word
        return 1, words[place]


def objects_of_images(
    outlined: Iterable[Outlined],
    described: Iterable[Described],
    reader: Reader,
    progress: Callable[[int], None] = lambda done: None,
) -> dict[str, list[str]]:
    """Ground truth from COCO's annotations: what is outlined in an image, and what its human captions name.

    Args:
        outlined: Objects by their categories, which have to be names that the reader knows.
        described: Human captions.
        reader: Finds the objects in the captions.
        progress: Told the number of captions so far.

    Returns:
        Image id -> objects by name; images in the order of their ids.
    """
    found: dict[int, set[str]] = {}
    for one in outlined:
        found.setdefault(one.image_id, set()).add(reader.object_named(one.category))
    for number, one in enumerate(described, 1):
        found.setdefault(one.image_id, set()).update(mention.object for mention in reader.mentions(one.caption))
        progress(number)
    return {str(image): sorted(found[image]) for image in sorted(found)}


def read_objects(path: Path) -> dict[str, frozenset[str]]:
    """Image id -> the objects in it, from a JSON object of lists.

    Raises:
        InputError: Something else is in the file.
    """
    raw = read_json(path)
    for image, objects in raw.items():
        if not isinstance(objects, list) or not all(isinstance(one, str) for one in objects):
            raise InputError(f"{objects!r} under image {image}", "a list of objects", file=str(path))
    if not raw:
        raise InputError("no images", "image id -> list of objects", file=str(path))
    return {image: frozenset(objects) for image, objects in raw.items()}


def check_objects(objects: Mapping[str, frozenset[str]], names: ObjectNames, file: Path) -> None:
    """Raises:
    InputError: An image has an object that no caption can name: by another table, or in another spelling.
    """
    if odd := sorted(set().union(*objects.values()) - set(names.official.values())):
        found = f"{len(odd)} objects that are not in the table of names ({', '.join(odd[:5])})"
        raise InputError(found, "objects found with the same table", file=str(file))
