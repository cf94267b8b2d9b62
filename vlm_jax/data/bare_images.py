"""PNG and JPEG files without what is told about the picture: texts, colour profiles, previews."""

import io
import os
import struct
import zlib
from collections.abc import Iterator

_PNG = b"\x89PNG\r\n\x1a\n"
# What pixels are made of; tRNS says which are transparent.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")

_JPEG = b"\xff\xd8"
_START_OF_SCAN = 0xDA
# All APPn but Adobe's 14, which says how colours are coded, and comments.
_JPEG_TOLD = frozenset({*range(0xE0, 0xF0), 0xFE} - {0xEE})


def pixels_alone(file: io.BufferedIOBase) -> io.BytesIO | None:
    """The same picture, as far as the file is one; None for other formats.

    Args:
        file: Open at its beginning.
    """
    start = file.read(len(_PNG))
    if start == _PNG:
        return _joined(start, _png_parts(file))
    if start.startswith(_JPEG):
        file.seek(len(_JPEG))
        return _joined(_JPEG, _jpeg_parts(file))
    return None


def _joined(start: bytes, parts: Iterator[bytes]) -> io.BytesIO:
    bare = io.BytesIO()
    bare.write(start)
    bare.writelines(parts)
    bare.seek(0)
    return bare


def _png_parts(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Chunks: length, name, content, check sum. EXIF stays, since it is looked at only after the pixels."""
    while len(head := file.read(8)) == 8:
        length, name = struct.unpack(">I4s", head)
        if name in _PNG_PIXELS:
            yield head + file.read(length + 4)
        elif name == b"eXIf":
            content = file.read(length)
            file.seek(4, os.SEEK_CUR)
            yield head + content + struct.pack(">I", zlib.crc32(name + content))
        else:
            file.seek(length + 4, os.SEEK_CUR)


def _jpeg_parts(file: io.BufferedIOBase) -> Iterator[bytes]:
    """Segments up to the pixels (marker, length with its own two bytes, content), then all the rest."""
    while len(head := file.read(4)) == 4 and head[0] == 0xFF:
        length = int.from_bytes(head[2:]) - 2
        if head[1] in _JPEG_TOLD:
            file.seek(max(length, 0), os.SEEK_CUR)
        elif head[1] == _START_OF_SCAN:
            yield head + file.read()
        else:
            yield head + file.read(max(length, 0))
