"""What a drawn scene contains, as a pure function of a split, an index and the dials.

A scene is a 3 x 3 grid of cells with one to five things on a ground, and sometimes a letter. The splits are disjoint by
construction: a stable hash of the content assigns each possible scene to exactly one split, and a scene is drawn
again until it falls into the split asked for.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Annotated

import numpy as np

from vlm_jax.errors import InputError
from vlm_jax.ranges import Range

SPLITS = ("train", "preference", "prompts", "validation", "test")
TRAINING_SPLITS = ("train", "preference", "prompts")

KINDS = ("ball", "box", "star", "moon", "heart", "ring", "tree", "house", "fish", "cup", "kite", "boat")
COLOURS = ("red", "green", "blue", "yellow", "purple", "orange")
SIZES = ("small", "large")
GROUNDS = ("snow", "sand", "grass", "night")
LETTERS = ("A", "E", "H", "L", "T", "X")

GRID = 3
CELL = 16  # Pixels.
IMAGE_SIZE = GRID * CELL
MOST_THINGS = 5
# Offsets move in quarter pixels so that a small cache holds every mask.
OFFSET_STEP = 0.25
OFFSET_STEPS = 4

_PAIRS = (
    ("ball", "kite"),
    ("box", "cup"),
    ("star", "moon"),
    ("heart", "ring"),
    ("tree", "house"),
    ("fish", "boat"),
)
PARTNER = {a: b for pair in _PAIRS for a, b in (pair, pair[::-1])}

# One thing alone allows no comparison or relation, so scenes of two and more are preferred.
_COUNT_SHARES = np.cumsum([0.10, 0.20, 0.25, 0.25, 0.20])
_REPEAT_RATE = 0.2


@dataclasses.dataclass(frozen=True)
class Dials:
    """How strongly each planted cause of hallucination acts.

    Attributes:
        cooccurrence: In training splits, chance that a placed kind brings its partner along (if there is room).
        synthetic_rate: Chance, for each present kind whose partner is absent until one falls, that a synthetic
            description names that partner.
        synthetic_share: Share of training descriptions that are synthetic.
        faint_rate: Chance that a thing is faint.
        faint_visibility: Lowest and highest blend of a faint thing's colour over the ground; others have 1.
        pixel_noise: Standard deviation of the sensor noise, in 8-bit levels.
        letter_rate: Chance that one of the free cells holds a letter.
        annotator_flip: Chance that an annotator reports the answer he likes less.
        annotator_length_taste: What ten more words are worth to an annotator.

    Raises:
        InputError: The lowest visibility is above the highest.
    """

    cooccurrence: Annotated[float, Range(0, 1)] = 0.6
    synthetic_rate: Annotated[float, Range(0, 1)] = 0.8
    synthetic_share: Annotated[float, Range(0, 1)] = 0.9
    faint_rate: Annotated[float, Range(0, 1)] = 0.4
    faint_visibility: Annotated[tuple[float, float], Range(0, 1)] = (0.12, 0.35)
    pixel_noise: Annotated[float, Range(0, 255)] = 10.0
    letter_rate: Annotated[float, Range(0, 1)] = 0.2
    annotator_flip: Annotated[float, Range(0, 1)] = 0.1
    annotator_length_taste: Annotated[float, Range(-1000, 1000)] = 0.3

    def __post_init__(self):
        low, high = self.faint_visibility
        if low > high:
            raise InputError(f"--dials.faint-visibility {low} {high}", "the lower one first")


STANDARD_DIALS = Dials()


@dataclasses.dataclass(frozen=True)
class Thing:
    """One object: ``cell`` counts row by row from the top left; ``offset`` is (x, y) in pixels from its centre."""

    kind: str
    colour: str
    size: str
    cell: int
    offset: tuple[float, float] = (0.0, 0.0)
    visibility: float = 1.0

    @property
    def row(self) -> int:
        return self.cell // GRID

    @property
    def column(self) -> int:
        return self.cell % GRID

    @property
    def faint(self) -> bool:
        return self.visibility < 1.0


@dataclasses.dataclass(frozen=True)
class Scene:
    """Everything there is to know about one image; ``things`` are ordered by cell."""

    split: str
    index: int
    ground: str
    things: tuple[Thing, ...]
    letter: str | None = None
    letter_cell: int | None = None
    dials: Dials = STANDARD_DIALS


def scene(split: str, index: int, dials: Dials = STANDARD_DIALS, seed: int = 0) -> Scene:
    """The scene at this place of the split; equal arguments always give an equal scene."""
    entropy = np.random.SeedSequence([seed, SPLITS.index(split), index])
    rng = np.random.Generator(np.random.Philox(entropy))
    while True:
        candidate = _draw_content(rng, split, index, dials)
        if split_of(candidate) == split:
            return candidate


def split_of(scene: Scene) -> str:
    """The only split that may hold this content."""
    return SPLITS[content_hash(scene) % len(SPLITS)]


def content_hash(scene: Scene) -> int:
    """64 bits of what can be seen: ground, letter and the multiset of (kind, colour, size, cell)."""
    things = sorted((t.cell, t.kind, t.colour, t.size) for t in scene.things)
    return _hash((scene.ground, scene.letter, scene.letter_cell, things), 8)


def generator_for(scene: Scene, purpose: str) -> np.random.Generator:
    """A random stream that belongs to this scene and this purpose."""
    key = _hash((purpose, scene.split, scene.index, content_hash(scene)), 16)
    return np.random.Generator(np.random.Philox(key=key))


def matching(scene: Scene, kind: str | None = None, colour: str | None = None, size: str | None = None) -> list[Thing]:
    """The things that agree with every property given."""
    return [t for t in scene.things if kind in (None, t.kind) and colour in (None, t.colour) and size in (None, t.size)]


def present_kinds(scene: Scene) -> list[str]:
    """Kinds in the scene, each once, in the order of ``KINDS``."""
    present = {t.kind for t in scene.things}
    return [kind for kind in KINDS if kind in present]


def absent_kinds(scene: Scene) -> list[str]:
    """Kinds not in the scene, in the order of ``KINDS``."""
    present = {t.kind for t in scene.things}
    return [kind for kind in KINDS if kind not in present]


def unique_things(scene: Scene) -> list[Thing]:
    """Things that are the only one of their kind, so that "the ball" names exactly one."""
    kinds = [t.kind for t in scene.things]
    return [t for t in scene.things if kinds.count(t.kind) == 1]


def _hash(content: object, size: int) -> int:
    return int.from_bytes(hashlib.blake2b(repr(content).encode(), digest_size=size).digest(), "big")


def _pick(values: Sequence[str], uniform: float) -> str:
    return values[int(uniform * len(values))]


def _draw_content(rng: np.random.Generator, split: str, index: int, dials: Dials) -> Scene:
    # Every property reads its own number of one fixed block, so turning a visual dial moves nothing else.
    uniforms = rng.random((MOST_THINGS + 2, 9))
    per_thing, general, cells = (
        uniforms[:MOST_THINGS].tolist(),
        uniforms[-2].tolist(),
        np.argsort(uniforms[-1]),
    )
    count = 1 + int(np.searchsorted(_COUNT_SHARES, min(general[0], 0.999)))
    pull = dials.cooccurrence if split in TRAINING_SPLITS else 0.0
    kinds = _draw_kinds(per_thing, count, pull)
    things = [_draw_thing(kind, int(cell), u, dials) for kind, cell, u in zip(kinds, cells, per_thing, strict=False)]
    has_letter = general[2] < dials.letter_rate
    return Scene(
        split=split,
        index=index,
        ground=_pick(GROUNDS, general[1]),
        things=tuple(sorted(things, key=lambda t: t.cell)),
        letter=_pick(LETTERS, general[3]) if has_letter else None,
        letter_cell=int(cells[count]) if has_letter else None,
        dials=dials,
    )


def _draw_kinds(uniforms: list, count: int, pull: float) -> list[str]:
    kinds: list[str] = []
    for repeat, which, partner, *_ in uniforms:
        if kinds and repeat < _REPEAT_RATE:
            kinds.append(_pick(kinds, which))
        else:
            kinds.append(_pick(KINDS, which))
            if PARTNER[kinds[-1]] not in kinds and partner < pull:
                kinds.append(PARTNER[kinds[-1]])
        if len(kinds) >= count:
            break
    return kinds[:count]


def _draw_thing(kind: str, cell: int, uniforms: list, dials: Dials) -> Thing:
    *_, colour, size, faint, blend, x, y = uniforms
    low, high = dials.faint_visibility
    return Thing(
        kind=kind,
        colour=_pick(COLOURS, colour),
        size=_pick(SIZES, size),
        cell=cell,
        offset=(_offset(x), _offset(y)),
        visibility=low + (high - low) * blend if faint < dials.faint_rate else 1.0,
    )


def _offset(uniform: float) -> float:
    return (int(uniform * (2 * OFFSET_STEPS + 1)) - OFFSET_STEPS) * OFFSET_STEP
