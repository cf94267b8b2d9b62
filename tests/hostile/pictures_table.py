"""Pictures that are none, that are odd, and that would fill the memory. What the odd ones become is asserted on the
pixels elsewhere (tests/data/test_odd_images.py); here they pass through the whole command."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from good_commands import Ground, png
from hostile_case import Case, Ended, Gives, instead, refused
from PIL import Image


def _chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def _bomb(width: int, height: int) -> bytes:
    """A small file of many pixels."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1 << 20))
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", head) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _saved(image: Image.Image, form: str, **how: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, form, **how)
    return stream.getvalue()


_WHOLE = png((64, 48))
_POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/tmp/x) (w) file closefile\nshowpage\n"
_SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
REFUSED: dict[str, tuple[str, bytes]] = {
    "bomb": ("a.png", _bomb(60_000, 60_000)),
    "wider-than-16384": ("a.png", _bomb(16_385, 1)),
    "width-0": ("a.png", _bomb(0, 5)),
    "width-2-to-31": ("a.png", _bomb((1 << 31) - 1, (1 << 31) - 1)),
    "postscript": ("a.png", _POSTSCRIPT),
    "postscript-by-name": ("a.eps", _POSTSCRIPT),
    "svg": ("a.svg", _SVG),
    "svg-as-png": ("a.png", _SVG),
    "html": ("a.jpg", b"<html>404</html>"),
    "zip": ("a.png", b"PK\x03\x04" + bytes(60)),
    "elf": ("a.png", b"\x7fELF" + bytes(60)),
    "cut-header": ("a.png", _WHOLE[:20]),
    "cut-pixels": ("a.png", _WHOLE[: len(_WHOLE) // 2]),
    "cut-jpeg": ("a.jpg", png((64, 48), form="JPEG")[:300]),
    "wrong-checksum": ("a.png", _WHOLE[:40] + bytes([_WHOLE[40] ^ 255]) + _WHOLE[41:]),
    "signature-alone": ("a.png", b"\x89PNG\r\n\x1a\n"),
    "one-byte": ("a.jpg", b"\xff"),
    "gif-of-nothing": ("a.gif", b"GIF89a" + bytes(7)),
    "psd": ("a.psd", b"8BPS\0\1" + bytes(40)),
    "float": ("a.tif", _saved(Image.new("F", (20, 20), 0.5), "TIFF")),
    "pdf": ("a.pdf", b"%PDF-1.4\n"),
}


def _animated() -> bytes:
    frames = [Image.new("RGB", (20, 20), color) for color in ("red", "blue")]
    return _saved(frames[0], "GIF", save_all=True, append_images=frames[1:])


def _transparent() -> bytes:
    image = Image.new("P", (20, 20))
    image.putpalette([255, 0, 0] * 256)
    return _saved(image, "PNG", transparency=bytes([0] * 256))


def _odd_exif() -> bytes:
    return _saved(Image.new("RGB", (20, 20)), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01")


def _wide() -> Image.Image:
    return Image.fromarray(np.arange(400, dtype=np.uint16).reshape(20, 20))


ODD: dict[str, tuple[str, Callable[[], bytes]]] = {
    "16384-by-1": ("a.png", lambda: _saved(Image.new("RGB", (16384, 1)), "PNG")),
    "1-by-1": ("a.png", lambda: _saved(Image.new("L", (1, 1)), "PNG")),
    "cmyk": ("a.jpg", lambda: _saved(Image.new("CMYK", (20, 20)), "JPEG")),
    "16-bit": ("a.png", lambda: _saved(_wide(), "PNG")),
    "two-colours": ("a.png", lambda: _saved(Image.new("1", (20, 20)), "PNG")),
    "animated": ("a.gif", _animated),
    "transparent-palette": ("a.png", _transparent),
    "broken-exif": ("a.jpg", _odd_exif),
    "jpeg-named-png": ("a.png", lambda: _saved(Image.new("RGB", (20, 20)), "JPEG")),
    "no-ending": ("picture", lambda: _saved(Image.new("RGB", (20, 20)), "WEBP")),
}


def _answers(ended: Ended) -> None:
    assert ended.out.strip()


def _cases() -> Iterator[Case]:
    for number, (name, (file, content)) in enumerate(REFUSED.items()):

        def value(ground: Ground, file: str = file, content: bytes = content) -> Any:
            return ground.write(file, content)

        yield Case("generate", f"picture-{name}", instead("generate", image=value), refused(file), number % 2 != 0)

        def folder(ground: Ground, file: str = file, content: bytes = content) -> Any:
            ground.write("pictures/0.png", png())
            return ground.write("pictures/1.jpg", content).parent

        if number % 5 == 0:
            for verb in ("sft", "sample"):
                line = instead(verb, images=folder)
                yield Case(verb, f"picture-{name}", line, refused("rows.json, row 2", "1.jpg"), slow=True)
    for name, (file, make) in ODD.items():

        def odd(ground: Ground, file: str = file, make: Callable[[], bytes] = make) -> Any:
            return ground.write(file, make())

        yield Case("generate", f"picture-odd-{name}", instead("generate", image=odd), Gives(_answers), slow=True)


CASES = list(_cases())
