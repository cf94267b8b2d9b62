"""Which picture a row shows, and where it lies.

A model here reads one picture a conversation. What a row says of others, of video or of sound must not be passed over:
the row would be trained as text, or with half of what its question is about.
"""

import functools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
    for key, value in row.values.items():
        if key not in keys and value and _is_media(key, value, name):
            raise row.wrong(f"{key!r} {value!r:.60}", _OFFERED)
    return name


def _names(row: Row, key: str) -> list[str]:
    value = row.values.get(key)
    if isinstance(value, list):
        if len(value) > 1:
            raise row.wrong(f"{len(value)} {key}", _OFFERED)
        return [row.filled(one, "an image name") for one in value]
    return [] if value is None else [row.filled(value, "an image name")]


@functools.lru_cache(1024)
def _key_words(key: str) -> frozenset[str]:
    """The words of a column's name: "imageFile", "image-path", "IMG_2"."""
    return frozenset(word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+\d*", key))


def _is_media(key: str, value: Any, name: str | None) -> bool:
    """Whether a column beside those that are read holds something to see or hear that is not the picture ``name``.

    Without a picture every column that speaks of one will do, whatever stands in it, and every file name of one.
    """
    words = _key_words(key)
    other = any(word.startswith(_OTHER_MEDIA) for word in words)
    speaks = other or any(word.startswith(_PICTURES) for word in words) or bool(words & _WORDS)
    if words & _IN_WORDS:
        return False
    if name is None:
        return speaks or (isinstance(value, str) and value.lower().endswith(_ENDINGS))
    if not speaks or words & _ABOUT:
        return False
    if isinstance(value, str):
        return Path(value).name != Path(name).name and (other or _names_media(value))
    return not isinstance(value, bool | int | float) and (other or _holds_media(value))


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
