"""Sentences about a scene: captions by people who were there, and descriptions as answers to an instruction."""

import numpy as np

from vlm_jax.scenes.world import COLOURS, KINDS, PARTNER, Scene, Thing, generator_for, present_kinds

# Singular and plural of each kind, then those of its synonym where it has one.
NOUNS: dict[str, tuple[tuple[str, str], ...]] = {
    "ball": (("ball", "balls"), ("sphere", "spheres")),
    "box": (("box", "boxes"), ("crate", "crates")),
    "star": (("star", "stars"),),
    "moon": (("moon", "moons"),),
    "heart": (("heart", "hearts"),),
    "ring": (("ring", "rings"),),
    "tree": (("tree", "trees"), ("pine", "pines")),
    "house": (("house", "houses"), ("hut", "huts")),
    "fish": (("fish", "fish"),),
    "cup": (("cup", "cups"), ("mug", "mugs")),
    "kite": (("kite", "kites"),),
    "boat": (("boat", "boats"), ("ship", "ships")),
}
NUMBERS = ("no", "one", "two", "three", "four", "five")
GROUND_PHRASES = {"snow": "in the snow", "sand": "on the sand", "grass": "on the grass", "night": "at night"}
RELATIONS = ("left of", "right of", "above", "below")

INSTRUCTIONS = (
    "Describe the picture.",
    "What is in the picture?",
    "What do you see in the image?",
    "Please describe this image in detail.",
    "Tell me what the picture shows.",
)

_SYNONYM_RATE = 0.3
_HEDGE_RATE = 0.3
_MOST_NAMED = 4


def article(words: str) -> str:
    """The words with "a" or "an" before them."""
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


def join(items: list[str]) -> str:
    """ "x", "x and y", "x, y and z"."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"


def noun(kind: str, count: int = 1, rng: np.random.Generator | None = None) -> str:
    """The kind's word in the right number; with a generator, sometimes its synonym."""
    words = NOUNS[kind]
    chosen = words[-1] if rng is not None and rng.random() < _SYNONYM_RATE else words[0]
    return chosen[count != 1]


def relation_between(first: Thing, second: Thing, axis: int) -> str | None:
    """How ``first`` lies to ``second`` by cell, along x (axis 0) or y (axis 1); None where they are level."""
    step = (first.column - second.column, first.row - second.row)[axis]
    return RELATIONS[2 * axis + (step > 0)] if step else None


def captions(scene: Scene) -> tuple[str, ...]:
    """Five short true captions by five annotators, who together name everything, faint or not."""
    rng = generator_for(scene, "captions")
    kinds = rng.permutation(present_kinds(scene)).tolist()
    annotators = (_plain_caption, _sized_caption, _ground_first_caption, _relation_caption, _letter_caption)
    result = []
    for start, annotator in enumerate(annotators):
        count = min(int(rng.integers(2, _MOST_NAMED + 1)), len(kinds))
        named = [kinds[(start + i) % len(kinds)] for i in range(count)]
        result.append(annotator(scene, named, rng))
    return tuple(result)


def description(scene: Scene, rng: np.random.Generator, synthetic: bool = False) -> str:
    """An answer to "Describe the picture."; a synthetic one may also name a partner that is absent."""
    return describe(scene, rng, _absent_partner(scene, rng) if synthetic else None, planted_last=True)


def describe(scene: Scene, rng: np.random.Generator, planted: str | None = None, planted_last: bool = False) -> str:
    """Names everything once, a faint thing sometimes only as "something red", and ``planted`` as if it were there,
    anywhere in the list or (as real captions hallucinate most: late) at its end."""
    groups = _groups_in_reading_order(scene)
    hedged = [len(g) == 1 and g[0].faint and rng.random() < _HEDGE_RATE for g in groups]
    if all(hedged):
        hedged[int(rng.integers(len(hedged)))] = False
    items: list[str] = []
    for group, hedge in zip(groups, hedged, strict=True):
        items += [f"something {group[0].colour}"] if hedge else _mention(group, rng, 0.85, 0.4)
    if planted is not None:
        colour = COLOURS[int(rng.integers(len(COLOURS)))]
        place = len(items) if planted_last else int(rng.integers(len(items) + 1))
        items.insert(place, article(f"{colour} {noun(planted, 1, rng)}"))
    sentences = [f"{_there_be(items[0])} {join(items)}."]
    relation = _relation([g[0] for g, h in zip(groups, hedged, strict=True) if len(g) == 1 and not h], rng)
    if relation is not None and rng.random() < 0.8:
        first, words, second = relation
        sentences.append(f"The {first.kind} is {words} the {second.kind}.")
    subject = "It is" if scene.ground == "night" or len(scene.things) == len(items) == 1 else "They are"
    sentences.append(f"{subject} {GROUND_PHRASES[scene.ground]}.")
    if scene.letter is not None:
        sentences.append(f"There is the letter {scene.letter}.")
    return " ".join(sentences)


def instruction(rng: np.random.Generator) -> str:
    """One of the phrasings that ask for a description."""
    return INSTRUCTIONS[int(rng.integers(len(INSTRUCTIONS)))]


def _groups_in_reading_order(scene: Scene) -> list[list[Thing]]:
    groups: dict[str, list[Thing]] = {}
    for thing in scene.things:
        groups.setdefault(thing.kind, []).append(thing)
    return list(groups.values())


def _of_kind(scene: Scene, kind: str) -> list[Thing]:
    return [t for t in scene.things if t.kind == kind]


def _mention(group: list[Thing], rng: np.random.Generator, colour: float, size: float) -> list[str]:
    """Noun phrases that name all things of one kind, with colour and size at these chances."""
    show_colour, show_size = rng.random() < colour, rng.random() < size
    words = {t: f"{f'{t.size} ' if show_size else ''}{f'{t.colour} ' if show_colour else ''}" for t in group}
    if len(group) == 1:
        return [article(words[group[0]] + noun(group[0].kind, 1, rng))]
    if len(set(words.values())) == 1:
        return [f"{NUMBERS[len(group)]} {words[group[0]]}{noun(group[0].kind, len(group), rng)}"]
    if show_colour and len({t.colour for t in group}) == len(group):
        return [article(words[t] + noun(t.kind, 1)) for t in group]
    return [f"{NUMBERS[len(group)]} {noun(group[0].kind, len(group), rng)}"]


def _absent_partner(scene: Scene, rng: np.random.Generator) -> str | None:
    present = present_kinds(scene)
    for kind in rng.permutation(present).tolist():
        partner = PARTNER[kind]
        if partner not in present and rng.random() < scene.dials.synthetic_rate:
            return partner
    return None


def _relation(things: list[Thing], rng: np.random.Generator) -> tuple[Thing, str, Thing] | None:
    if len(things) < 2:
        return None
    first, second = (things[i] for i in rng.choice(len(things), 2, replace=False))
    axis = int(rng.integers(2))
    words = relation_between(first, second, axis) or relation_between(first, second, 1 - axis)
    return first, words, second


def _there_be(first_item: str) -> str:
    return "There are" if first_item.split()[0] in NUMBERS[2:] else "There is"


def _items(scene: Scene, kinds: list[str], rng: np.random.Generator, colour: float, size: float = 0.0) -> list[str]:
    return [item for kind in kinds for item in _mention(_of_kind(scene, kind), rng, colour, size)]


def _plain_caption(scene: Scene, kinds: list[str], rng: np.random.Generator) -> str:
    return f"{join(_items(scene, kinds, rng, 1.0))} {GROUND_PHRASES[scene.ground]}."


def _sized_caption(scene: Scene, kinds: list[str], rng: np.random.Generator) -> str:
    items = _items(scene, kinds[:3], rng, 0.8, 0.8)
    return f"{_there_be(items[0]).lower()} {join(items)}."


def _ground_first_caption(scene: Scene, kinds: list[str], rng: np.random.Generator) -> str:
    items = _items(scene, kinds, rng, 0.5)
    return f"{GROUND_PHRASES[scene.ground]} {_there_be(items[0]).lower()} {join(items)}."


def _relation_caption(scene: Scene, kinds: list[str], rng: np.random.Generator) -> str:
    groups = [_of_kind(scene, kind) for kind in kinds]
    relation = _relation([g[0] for g in groups if len(g) == 1], rng)
    if relation is None:
        return _plain_caption(scene, kinds, rng)
    first, words, second = relation
    (one,), (other,) = (_mention([t], rng, 0.7, 0.2) for t in (first, second))
    return f"{one} {words} {other} {GROUND_PHRASES[scene.ground]}."


def _letter_caption(scene: Scene, kinds: list[str], rng: np.random.Generator) -> str:
    items = _items(scene, kinds[:3], rng, 0.7, 0.5)
    if scene.letter is not None:
        items.append(f"the letter {scene.letter}")
    return f"a picture of {join(items)}."


# Every noun, in either number, to its kind.
KIND_OF_WORD = {word: kind for kind in KINDS for pair in NOUNS[kind] for word in pair}
