"""Scenes to pixels: antialiased shapes over a textured ground, with sensor noise."""

import functools

import numpy as np
from PIL import Image, ImageDraw

from vlm_jax.scenes.world import CELL, GRID, IMAGE_SIZE, OFFSET_STEP, Scene, Thing, generator_for

COLOUR_RGB = {
    "red": (205, 25, 30),
    "green": (10, 125, 45),
    "blue": (35, 75, 225),
    "yellow": (250, 225, 20),
    "purple": (150, 30, 175),
    "orange": (245, 125, 10),
}
GROUND_RGB = {
    "snow": (226, 232, 242),
    "sand": (206, 180, 140),
    "grass": (150, 180, 112),
    "night": (24, 28, 52),
}
THING_PIXELS = {"small": 9.0, "large": 14.0}

_SUPERSAMPLING = 8
_LETTER_PIXELS = 13.0
_INK = np.array((20, 20, 20), np.float32)
_PAPER = np.array((255, 255, 255), np.float32)

# Shapes in unit coordinates, painted in order: (primitive, paint or erase, coordinates).
_STAR = [
    (0.5 + r * np.sin(k * np.pi / 5), 0.53 - r * np.cos(k * np.pi / 5))
    for k in range(10)
    for r in [0.54 if k % 2 == 0 else 0.21]
]
SHAPES: dict[str, list] = {
    "ball": [("ellipse", 1, [(0.02, 0.02), (0.98, 0.98)])],
    # The seam under the lid keeps a small box apart from a small ball, which fills all but the corners.
    "box": [
        ("polygon", 1, [(0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0)]),
        ("polygon", 0, [(0.0, 0.28), (1.0, 0.28), (1.0, 0.38), (0.0, 0.38)]),
    ],
    "star": [("polygon", 1, _STAR)],
    "moon": [
        ("ellipse", 1, [(0.02, 0.0), (1.02, 1.0)]),
        ("ellipse", 0, [(0.36, -0.08), (1.22, 0.78)]),
    ],
    "heart": [
        ("ellipse", 1, [(0.0, 0.06), (0.54, 0.60)]),
        ("ellipse", 1, [(0.46, 0.06), (1.0, 0.60)]),
        ("polygon", 1, [(0.035, 0.46), (0.5, 0.30), (0.965, 0.46), (0.5, 0.99)]),
    ],
    "ring": [("ellipse", 1, [(0.0, 0.0), (1.0, 1.0)]), ("ellipse", 0, [(0.26, 0.26), (0.74, 0.74)])],
    "tree": [
        ("polygon", 1, [(0.5, 0.0), (0.86, 0.42), (0.14, 0.42)]),
        ("polygon", 1, [(0.5, 0.2), (1.0, 0.76), (0.0, 0.76)]),
        ("polygon", 1, [(0.39, 0.74), (0.61, 0.74), (0.61, 1.0), (0.39, 1.0)]),
    ],
    "house": [
        ("polygon", 1, [(0.5, 0.0), (1.0, 0.44), (0.0, 0.44)]),
        ("polygon", 1, [(0.10, 0.42), (0.90, 0.42), (0.90, 1.0), (0.10, 1.0)]),
        ("polygon", 0, [(0.37, 0.60), (0.63, 0.60), (0.63, 1.0), (0.37, 1.0)]),
    ],
    "fish": [
        ("ellipse", 1, [(0.0, 0.20), (0.74, 0.80)]),
        ("polygon", 1, [(0.60, 0.50), (1.0, 0.14), (1.0, 0.86)]),
        ("ellipse", 0, [(0.13, 0.34), (0.27, 0.48)]),
    ],
    "cup": [
        ("ellipse", 1, [(0.50, 0.20), (1.0, 0.70)]),
        ("ellipse", 0, [(0.64, 0.34), (0.86, 0.56)]),
        ("polygon", 1, [(0.0, 0.08), (0.70, 0.08), (0.60, 0.94), (0.10, 0.94)]),
    ],
    "kite": [
        ("polygon", 1, [(0.58, 0.0), (0.98, 0.30), (0.58, 0.72), (0.18, 0.30)]),
        ("polygon", 1, [(0.52, 0.64), (0.62, 0.70), (0.14, 1.0), (0.02, 0.90)]),
    ],
    "boat": [
        ("polygon", 1, [(0.0, 0.66), (1.0, 0.66), (0.80, 1.0), (0.20, 1.0)]),
        ("polygon", 1, [(0.44, 0.0), (0.92, 0.56), (0.44, 0.56)]),
        ("polygon", 1, [(0.36, 0.0), (0.44, 0.0), (0.44, 0.68), (0.36, 0.68)]),
    ],
}
# Letters as strokes of one width, all straight.
_STROKES = {
    "A": [(0.15, 1.0, 0.5, 0.0), (0.5, 0.0, 0.85, 1.0), (0.28, 0.64, 0.72, 0.64)],
    "E": [(0.2, 0.0, 0.2, 1.0), (0.2, 0.05, 0.85, 0.05), (0.2, 0.5, 0.75, 0.5), (0.2, 0.95, 0.85, 0.95)],
    "H": [(0.15, 0.0, 0.15, 1.0), (0.85, 0.0, 0.85, 1.0), (0.15, 0.5, 0.85, 0.5)],
    "L": [(0.2, 0.0, 0.2, 1.0), (0.2, 0.95, 0.85, 0.95)],
    "T": [(0.1, 0.05, 0.9, 0.05), (0.5, 0.0, 0.5, 1.0)],
    "X": [(0.1, 0.0, 0.9, 1.0), (0.9, 0.0, 0.1, 1.0)],
}


def draw(scene: Scene) -> np.ndarray:
    """The image, uint8 [48, 48, 3]."""
    rng = generator_for(scene, "pixels")
    x, y = rng.integers(0, IMAGE_SIZE, 2)
    canvas = _ground(scene.ground)[y : y + IMAGE_SIZE, x : x + IMAGE_SIZE].copy()
    for thing in scene.things:
        alpha = _thing_alpha(thing)[..., None] * np.float32(thing.visibility)
        region = canvas[_cell_slices(thing.cell)]
        region += alpha * (_rgb(thing.colour) - region)
    if scene.letter is not None:
        tile, ink = _letter_alpha(scene.letter)
        region = canvas[_cell_slices(scene.letter_cell)]
        region += tile * (_PAPER + ink * (_INK - _PAPER) - region)
    if scene.dials.pixel_noise:
        noise = rng.standard_normal(canvas.shape, dtype=np.float32)
        canvas += np.float32(scene.dials.pixel_noise) * noise
    return np.clip(canvas + 0.5, 0, 255).astype(np.uint8)


def masks(scene: Scene) -> np.ndarray:
    """Which pixels each thing covers by half or more, bool [n, 48, 48]; faintness plays no part."""
    result = np.zeros((len(scene.things), IMAGE_SIZE, IMAGE_SIZE), bool)
    for mask, thing in zip(result, scene.things, strict=True):
        mask[_cell_slices(thing.cell)] = _thing_alpha(thing) >= 0.5
    return result


def boxes(scene: Scene) -> list[tuple[int, int, int, int]]:
    """Bounds (x0, y0, x1, y1) of each mask in pixels, x1 and y1 exclusive."""
    result = []
    for mask in masks(scene):
        (rows,), (columns,) = np.nonzero(mask.any(1)), np.nonzero(mask.any(0))
        result.append((int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1))
    return result


@functools.cache
def _rgb(colour: str) -> np.ndarray:
    return np.array(COLOUR_RGB[colour], np.float32)


@functools.cache
def _cell_slices(cell: int) -> tuple[slice, slice]:
    row, column = divmod(cell, GRID)
    return slice(row * CELL, (row + 1) * CELL), slice(column * CELL, (column + 1) * CELL)


def _thing_alpha(thing: Thing) -> np.ndarray:
    dx, dy = (round(o / OFFSET_STEP) for o in thing.offset)
    return _shape_alpha(thing.kind, THING_PIXELS[thing.size], dx, dy)


@functools.cache
def _shape_alpha(kind: str, pixels: float, dx: int, dy: int) -> np.ndarray:
    """How much of each pixel of a cell the shape covers, float32 [16, 16]; (dx, dy) in offset steps."""
    canvas = Image.new("L", (CELL * _SUPERSAMPLING,) * 2)
    pen = ImageDraw.Draw(canvas)
    left, top = ((CELL - pixels) / 2 + d * OFFSET_STEP for d in (dx, dy))
    for primitive, paint, points in SHAPES[kind]:
        place = [((left + pixels * x) * _SUPERSAMPLING, (top + pixels * y) * _SUPERSAMPLING) for x, y in points]
        getattr(pen, primitive)(place, fill=255 * paint)
    return _average(canvas)


@functools.cache
def _letter_alpha(letter: str) -> tuple[np.ndarray, np.ndarray]:
    """Coverage of the white tile and of the ink upon it, float32 [16, 16, 1] each."""
    tile, ink = (Image.new("L", (CELL * _SUPERSAMPLING,) * 2) for _ in range(2))
    edge = (CELL - _LETTER_PIXELS) / 2
    bounds = (edge * _SUPERSAMPLING, (CELL - edge) * _SUPERSAMPLING - 1)
    ImageDraw.Draw(tile).rectangle((bounds[0], bounds[0], bounds[1], bounds[1]), fill=255)
    pen = ImageDraw.Draw(ink)
    for stroke in _STROKES[letter]:
        pen.line([(4 + 8 * c) * _SUPERSAMPLING for c in stroke], fill=255, width=2 * _SUPERSAMPLING)
    return _average(tile)[..., None], _average(ink)[..., None]


def _average(canvas: Image.Image) -> np.ndarray:
    fine = np.asarray(canvas, np.float32) / 255
    return fine.reshape(CELL, _SUPERSAMPLING, CELL, _SUPERSAMPLING).mean((1, 3))


@functools.cache
def _ground(ground: str) -> np.ndarray:
    """A texture twice as wide and high as an image, from which crops are taken, float32 [96, 96, 3]."""
    side = 2 * IMAGE_SIZE
    rng = np.random.Generator(np.random.Philox(key=sorted(GROUND_RGB).index(ground)))
    smooth = np.kron(rng.standard_normal((side // 8, side // 8)), np.ones((8, 8)))
    for axis in (0, 1):
        smooth = sum(np.roll(smooth, shift, axis) for shift in range(-4, 5)) / 9
    fine = rng.standard_normal((side, side))
    texture = {
        "snow": 8 * smooth + 3 * fine,
        "sand": 5 * smooth + 8 * fine,
        "grass": 4 * smooth + 8 * (fine + np.roll(fine, 1, 0) + np.roll(fine, 2, 0)) / 3**0.5,
        "night": 5 * smooth + 90 * (rng.random((side, side)) < 0.006),
    }[ground]
    return (np.array(GROUND_RGB[ground]) + texture[..., None]).astype(np.float32)
