"""Image files to the 8-bit squares that a vision tower reads. Normalising is left to the device."""

import io
import struct
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from vlm_jax.config import CLIP_MEAN, Aspect
from vlm_jax.errors import InputError

# A path, the encoded bytes, or what opens an image: a picture that others hold is then asked for when it is read.
Source = str | Path | bytes | Callable[[], Image.Image]

# CLIP's mean colour rounded down, (122, 116, 104): what LLaVA pads with.
BACKGROUND = tuple(int(255 * mean) for mean in CLIP_MEAN)

# Padding to a square takes the square of this, three bytes each.
_LONGEST_SIDE = 16384

_UNREADABLE = (
    OSError,
    EOFError,
    ValueError,
    SyntaxError,
    TypeError,
    struct.error,
    Image.DecompressionBombError,
)


def load_image(source: Source) -> Image.Image:
    """Decodes the first frame of an image as upright 8-bit RGB.

    EXIF rotation is applied (LLaVA does not; cameras rely on it). Grey, palette and CMYK are converted,
    16-bit values keep their high byte, transparent parts show the background that LLaVA pads with.

    Args:
        source: Where it comes from; an image that a function opened stays open.

    Raises:
        InputError: The image is missing, cut short, damaged, no image, or longer than 16384 pixels on a side.
    """
    name = "image bytes" if isinstance(source, bytes) else None if callable(source) else str(source)
    try:
        with _opened(source) as image:
            if max(image.size) > _LONGEST_SIDE:
                raise InputError(f"an image of {image.size} pixels", f"sides up to {_LONGEST_SIDE}", file=name)
            image.load()
            return _rgb(ImageOps.exif_transpose(image))
    except FileNotFoundError:
        raise InputError("no such file", "an image file", file=name) from None
    except _UNREADABLE as error:
        raise InputError(f"an image that cannot be decoded ({error})", "a whole image file", file=name) from None


def _opened(source: Source) -> AbstractContextManager[Image.Image]:
    if callable(source):
        return nullcontext(source())
    return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        raise ValueError("floating-point pixels")
    if image.mode.startswith("I"):
        # Pillow would clip 16-bit values at 255 instead of scaling them.
        return Image.fromarray((np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", layer.size, (*BACKGROUND, 255)), layer)
    return image.convert("RGB")


def _pad_to_square(image: Image.Image) -> Image.Image:
    side = max(image.size)
    square = Image.new("RGB", (side, side), BACKGROUND)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def _resize_and_crop(image: Image.Image, size: int) -> Image.Image:
    """Shortest edge to ``size`` (bicubic), then the centre square: Hugging Face's ``CLIPImageProcessor``."""
    short = min(image.size)
    width, height = (size if side == short else int(size * side / short) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    resized = image.resize((width, height), Image.Resampling.BICUBIC)
    return resized.crop((left, top, left + size, top + size))


def prepare(
    image: Image.Image, size: int, aspect: Aspect = "pad", resolution: int | None = None
) -> UInt8[np.ndarray, "size size 3"]:
    """The square that a tower of ``size`` pixels reads; an image that has this size passes unchanged.

    Args:
        image: RGB.
        size: Side of the result.
        aspect: "pad" keeps the whole image on a square of the background colour (LLaVA's ``expand2square``);
            "square" keeps the centre square and loses what lies outside.
        resolution: A coarser view: the result is averaged down to this many pixels a side and stretched again
            (bilinear), for a reader that sees less well.
    """
    if aspect == "pad":
        image = _pad_to_square(image)
    elif aspect != "square":
        raise ValueError(f"aspect must be 'pad' or 'square', not {aspect!r}")
    image = _resize_and_crop(image, size)
    if resolution is not None:
        image = image.resize((resolution, resolution), Image.Resampling.BOX)
        image = image.resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(image)


def placeholder(size: int) -> UInt8[np.ndarray, "size size 3"]:
    """What a row without an image carries."""
    return np.zeros((size, size, 3), np.uint8)
