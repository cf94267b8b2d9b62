"""Image files to the 8-bit squares that a vision tower reads. Normalising is left to the device."""

import io
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, UnidentifiedImageError

from vlm_jax.config import CLIP_MEAN, ImageSteps
from vlm_jax.data.bare_images import pixels_alone
from vlm_jax.errors import InputError

# A path, the encoded bytes, or what opens an image: a picture that others hold is then asked for when it is read.
Source = str | Path | bytes | Callable[[], Image.Image]

# CLIP's mean colour rounded down, (122, 116, 104): what LLaVA pads with.
BACKGROUND = tuple(int(255 * mean) for mean in CLIP_MEAN)

# What Pillow may open a file as. Its other readers are seldom used and seldom looked at, and some start programs:
# PostScript is drawn by Ghostscript, whatever the file is called.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_EXPECTED = f"a whole image file ({', '.join(FORMATS)})"

_LONGEST_SIDE = 16384
# What Pillow itself takes for a bomb; 270 MB as RGB.
_MOST_PIXELS = 89_478_485
# Room for those at 16 bits a channel, not compressed.
_MOST_BYTES = 1 << 30
# At a time while an image is reduced, and at most where its middle is cut out of an enlarged one.
_PIXELS_AT_ONCE = 1 << 22
_MOST_ENLARGED = 1 << 26

_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Under which names Pillow keeps what says so: EXIF, and XMP where that has no word of it.
_TELLS_OF_TURN = ("exif", "Raw profile type exif", "xmp", "XML:com.adobe.xmp")


def load_image(source: Source, as_transformers: bool = False) -> Image.Image:
    """Decodes the first frame of an image as upright 8-bit RGB.

    EXIF rotation is applied (LLaVA does not; cameras rely on it) where it can be read. Grey, palette and CMYK are
    converted, 16-bit values keep their high byte, transparent parts show the background that LLaVA pads with.

    Args:
        source: Where it comes from; an image that a function opened stays open.
        as_transformers: Convert to RGB as Pillow does, like transformers' ``load_image``: what is hidden under
            transparency shows, and values of more than 8 bits are cut.

    Raises:
        InputError: The image is missing, cut short, damaged, in none of ``FORMATS``, longer than 16384 pixels on a side
            or larger than 89 million in all, or no regular file of at most a gigabyte.
    """
    name = "image bytes" if isinstance(source, bytes) else None if callable(source) else str(source)
    try:
        if callable(source):
            return _decoded(source(), as_transformers)
        with _opened(source) as file:
            return _read(file, as_transformers)
    except InputError as error:
        raise error.at(name) if name else error from None
    except FileNotFoundError:
        raise InputError("no such file", "an image file", file=name) from None
    except UnidentifiedImageError:
        raise InputError("an image that cannot be decoded (of no known format)", _EXPECTED, file=name) from None
    except Exception as error:
        # Pillow lets through whatever a damaged file makes its parts raise.
        reason = str(error) or type(error).__name__
        raise InputError(f"an image that cannot be decoded ({reason})", "a whole image file", file=name) from None


@contextmanager
def _opened(source: str | Path | bytes) -> Iterator[io.BufferedIOBase]:
    if isinstance(source, bytes):
        yield io.BytesIO(source)
        return
    # Opening a pipe waits for a writer, deaf to all signals in a thread; opening a device does what the device does.
    _require_regular(os.stat(source))
    # Should it have become one since.
    descriptor = os.open(source, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with open(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor))
        yield file


def _require_regular(status: os.stat_result) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise InputError("an image that cannot be decoded (no regular file)", _EXPECTED)
    if status.st_size > _MOST_BYTES:
        raise InputError(f"an image of {status.st_size} bytes", f"at most {_MOST_BYTES}")


def _read(file: io.BufferedIOBase, as_transformers: bool) -> Image.Image:
    try:
        with Image.open(file, formats=FORMATS) as image:
            return _decoded(image, as_transformers)
    except InputError:
        raise
    except Exception:
        # Texts, profiles and EXIF that are damaged, or larger than Pillow likes, take no pixel away.
        file.seek(0)
        bare = pixels_alone(file)
        if bare is None:
            raise
        with Image.open(bare, formats=FORMATS) as image:
            return _decoded(image, as_transformers)


def _decoded(image: Image.Image, as_transformers: bool) -> Image.Image:
    if max(image.size) > _LONGEST_SIDE or image.width * image.height > _MOST_PIXELS:
        expected = f"sides up to {_LONGEST_SIDE} and at most {_MOST_PIXELS} in all"
        raise InputError(f"an image of {image.size} pixels", expected)
    image.load()
    upright = _upright(image)
    return upright.convert("RGB") if as_transformers else _rgb(upright)


def _upright(image: Image.Image) -> Image.Image:
    try:
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:
        # Whatever is wrong with what is told about the picture, the picture is there.
        return image
    if turn is None:
        return image
    turned = image.transpose(turn)
    # It stands upright now: whoever loads it again shall not turn it again.
    for told in _TELLS_OF_TURN:
        turned.info.pop(told, None)
    return turned


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


def _pad_and_resize(image: Image.Image, size: tuple[int, int], resample: int) -> Image.Image:
    """Pads to a square and reduces that to ``size`` (width and height), without ever holding the square.

    Pillow reduces the rows first and then the columns, each to 8 bits, so that rows can be reduced a few at a time.
    """
    side, width = max(image.size), size[0]
    left, top = (side - image.width) // 2, (side - image.height) // 2
    narrow = Image.new("RGB", (width, side), BACKGROUND)
    rows = max(1, _PIXELS_AT_ONCE // side)
    for start in range(0, image.height, rows):
        end = min(start + rows, image.height)
        strip = Image.new("RGB", (side, end - start), BACKGROUND)
        strip.paste(image.crop((0, start, image.width, end)), (left, 0))
        narrow.paste(strip.resize((width, end - start), resample), (0, top + start))
    return narrow.resize(size, resample)


def _resize(image: Image.Image, size: int | tuple[int, int], resample: int) -> Image.Image:
    """To a height and a width, or the shorter edge to a length.

    Raises:
        InputError: The image is so much longer than wide that the enlarged one would not be held.
    """
    if isinstance(size, tuple):
        height, width = size
    else:
        short = min(image.size)
        width, height = (size if side == short else int(size * side / short) for side in image.size)
    if width * height > _MOST_ENLARGED:
        found = f"an image of {image.size} pixels, which would be enlarged to {(width, height)}"
        raise InputError(found, "one less long and thin")
    return image.resize((width, height), resample)


def _centre(image: Image.Image, crop: tuple[int, int]) -> Image.Image:
    """The middle of an image, of a height and a width; black where the image is smaller. Halves are rounded as in
    transformers' ``center_crop``."""
    height, width = crop
    middle = Image.new("RGB", (width, height))
    middle.paste(image, (-((image.width - width) // 2), -((image.height - height) // 2)))
    return middle


def _processed(image: Image.Image, steps: ImageSteps) -> Image.Image:
    if steps.pad:
        side = max(image.size) if steps.resize is None else steps.resize
        height, width = side if isinstance(side, tuple) else (side, side)
        image = _pad_and_resize(image, (width, height), steps.resample)
    elif steps.resize is not None:
        image = _resize(image, steps.resize, steps.resample)
    return image if steps.crop is None else _centre(image, steps.crop)


def prepare(image: Image.Image, steps: ImageSteps, resolution: int | None = None) -> UInt8[np.ndarray, "h w 3"]:
    """The square that a tower reads.

    Args:
        image: RGB.
        steps: How it is made; those of :func:`vlm_jax.config.own_steps` leave an image of their size unchanged.
        resolution: A coarser view: the result is averaged down to this many pixels a side and stretched again
            (bilinear), for a reader that sees less well.

    Raises:
        InputError: See ``_resize``.
    """
    image = _processed(image, steps)
    if resolution is not None:
        size = image.size
        image = image.resize((resolution, resolution), Image.Resampling.BOX)
        image = image.resize(size, Image.Resampling.BILINEAR)
    return np.asarray(image)


def placeholder(size: int) -> UInt8[np.ndarray, "size size 3"]:
    """What a row without an image carries."""
    return np.zeros((size, size, 3), np.uint8)
