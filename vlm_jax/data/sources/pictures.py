"""Which picture a row shows, and where it lies.

A model here reads one picture a conversation. What a row says of others, of video or of sound must not be passed over:
the row would be trained as text, or with half of what its question is about.
"""

import functools
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vlm_jax.data.rows import Row
from vlm_jax.errors import InputError
from vlm_jax.files import below

KEYS = ("image", "images")

_OFFERED = "one picture a row, its file name under 'image' or alone in a list 'images'; no video, no sound"
# Beginnings of words in the names of columns that hold pictures and other media, and whole words.
_PICTURES = ("image", "img", "picture", "photo", "pixel", "screenshot")
_OTHER_MEDIA = ("video", "audio")
_WORDS = {"pic", "pics", "frames", "media", "medias", "visual", "visuals", "mp3", "mp4", "wav"}
# Words of columns that say something about a picture: in words; or where it comes from and what it measures.
_IN_WORDS = {"caption", "captions", "description", "descriptions", "text"}
_ABOUT = {"id", "ids", "url", "urls", "size", "sizes", "width", "height", "source"}
_ENDINGS = tuple(
    ".jpg .jpeg .jpe .png .webp .gif .bmp .tif .tiff .ppm .avif .heic .jp2 .svg "
    ".mp4 .avi .mov .mkv .webm .mpg .mpeg .wav .mp3 .flac .ogg .m4a .npy".split()
)
_LONGEST_NAME = 1024  # A longer text without a space is the encoded picture itself.


def picture_name(row: Row, shown: Sequence[str] = (), keys: Sequence[str] = KEYS) -> str | None:
    """The file name of the one picture that a row shows; None for a row of text.

    Args:
        row: The row.
        shown: Names that stand in its messages.
        keys: Columns that its layout has pictures in, each with a name or a list of at most one.

    Raises:
        InputError: There are several, or another column holds something to see or hear.
    """
    names = dict.fromkeys([*shown, *(name for key in keys for name in _names(row, key))])
    if len(names) > 1:
        raise row.wrong(f"more than one picture, {', '.join(map(repr, names))}", _OFFERED)
    name = next(iter(names), None)
    for key, value in _others(row.values, name, keys):
        raise row.wrong(f"{key!r} {value!r:.60}", _OFFERED)
    return name


def _others(values: Mapping[str, Any], name: str | None, keys: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """What holds something to see or hear beside ``keys``: in columns, in turns, in whatever else is nested."""
    for key, value in values.items():
        if key in keys or not value:
            continue
        if _is_media(key, value, name) or (keys and name is None and _is_file_name(value)):
            yield key, value
        elif not isinstance(value, str):
            for one in value if isinstance(value, list) else [value]:
                if isinstance(one, dict):
                    yield from _others(one, name, ())


def _names(row: Row, key: str) -> list[str]:
    value = row.values.get(key)
    if isinstance(value, list):
        if len(value) > 1:
            raise row.wrong(f"{len(value)} {key}", _OFFERED)
        return [row.filled(one, "an image name") for one in value]
    if not isinstance(value, str | None):
        raise row.wrong(f"an image name of type {type(value).__name__}", _OFFERED)
    return [] if value is None else [row.filled(value, "an image name")]


class _Key(NamedTuple):
    """What the name of a column says: whether it speaks of something to see or hear, of other media than pictures, and
    only of where it comes from and what it measures."""

    speaks: bool
    other: bool
    about: bool


@functools.lru_cache(1024)
def _key(name: str) -> _Key:
    """Of "imageFile", "image-path", "IMG_2"."""
    words = {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*", name)}
    other = any(word.startswith(_OTHER_MEDIA) for word in words)
    pictures = any(word.startswith(_PICTURES) for word in words)
    speaks = (other or pictures or bool(words & _WORDS)) and not words & _IN_WORDS
    return _Key(speaks, other, bool(words & _ABOUT))


def _is_media(key: str, value: Any, name: str | None) -> bool:
    """Whether what stands under a key is something to see or hear that is not the picture ``name``.

    Without a picture every key that speaks of one will do, whatever stands there.
    """
    says = _key(key)
    if not says.speaks or name is None:
        return says.speaks
    if says.about:
        return False
    if isinstance(value, str):
        return Path(value).name != Path(name).name and (says.other or _names_media(value))
    return not isinstance(value, bool | int | float) and (says.other or _holds_media(value))


def _is_file_name(value: Any) -> bool:
    return isinstance(value, str) and value.lower().endswith(_ENDINGS) and not any(map(str.isspace, value))


def _names_media(text: str) -> bool:
    encoded = len(text) > _LONGEST_NAME and " " not in text
    return encoded or text.lower().endswith(_ENDINGS) or text.startswith("data:")


def _holds_media(value: Any) -> bool:
    if isinstance(value, str):
        return _names_media(value)
    if isinstance(value, dict):
        return not value.keys().isdisjoint(("bytes", "path", "url")) or any(map(_holds_media, value.values()))
    # Numbers in lists of lists are pixels.
    return isinstance(value, list) and any(isinstance(one, list) or _holds_media(one) for one in value)


class Pictures:
    """Resolves names in a folder; asks the file system once per name.

    Args:
        folder: What names are relative to.
        allow_outside: Whether a name may lead out of it, by itself or by a link.
    """

    def __init__(self, folder: str | Path, allow_outside: bool = False):
        self.folder, self.allow_outside, self.known = Path(folder), allow_outside, dict[str, Path]()

    def find(self, row: Row, name: str) -> Path:
        """The file as the row names it (links are followed for the check alone).

        Raises:
            InputError: There is no such file, or it lies elsewhere.
        """
        if name not in self.known:
            try:
                path = below(self.folder, name, allow_outside=self.allow_outside)
                is_file = path.is_file()
            except InputError as error:
                raise error.at(*row.origin) from None
            except OSError as error:
                raise row.wrong(f"an image name {name!r:.80} ({error.strerror})", "an existing file") from None
            if not is_file:
                raise row.wrong(f"no image file {path}", "an existing file")
            self.known[name] = path
        return self.known[name]
