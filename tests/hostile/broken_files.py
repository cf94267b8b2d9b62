"""What may stand where a file is wanted. Each maker puts it at a path that is not there yet."""

import dataclasses
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

Maker = Callable[[Path], object]


@dataclasses.dataclass(frozen=True)
class Broken:
    """A thing in a file's place.

    Attributes:
        make: Puts it there.
        words: What is said of it beside the file's name.
        formats: Kinds of files that it is broken as: ``text`` is anything that is read as UTF-8, ``json`` any JSON,
            ``rows`` a list or lines of objects, ``object`` one object, ``toml``, ``picture``, ``table``.
    """

    make: Maker
    words: tuple[str, ...] = ()
    formats: tuple[str, ...] = ("text", "json", "rows", "object", "toml", "picture", "table")


_JSON = ("json", "rows", "object")
_READ = ("text", *_JSON, "toml", "table")


def content(data: bytes) -> Maker:
    return lambda path: path.write_bytes(data)


def link(target: str) -> Maker:
    return lambda path: path.symlink_to(target)


def _socket(path: Path) -> None:
    """Sockets' names are short: bound from its folder."""
    before = os.getcwd()
    os.chdir(path.parent)
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)
    finally:
        os.chdir(before)


def holes(size: int) -> Maker:
    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.truncate(size)

    return make


def _locked(path: Path) -> None:
    path.write_text("{}")
    path.chmod(0)


_ROW = b'{"id": 1, "text": "Yes"}'
BROKEN: dict[str, Broken] = {
    "missing": Broken(lambda path: None, ("no such file",)),
    "folder": Broken(lambda path: path.mkdir()),
    "dangling-link": Broken(link("gone"), ("no such file",)),
    "link-to-itself": Broken(lambda path: path.symlink_to(path.name), ("levels of symbolic links",)),
    "pipe": Broken(lambda path: os.mkfifo(path), ("no regular file",)),
    "socket": Broken(_socket, ("no regular file",)),
    "device": Broken(link("/dev/zero"), ("no regular file",)),
    "null-device": Broken(link("/dev/null"), ("no regular file",)),
    "unreadable": Broken(_locked, ("not permitted",)),
    "empty": Broken(content(b""), formats=(*_JSON, "toml", "picture", "table")),
    "blanks": Broken(content(b" \n\t\r\n"), formats=(*_JSON, "toml", "picture")),
    "binary": Broken(content(bytes(range(255, -1, -1)) * 4), ("byte", "not UTF-8"), _READ),
    "utf-16": Broken(content('[{"id": 1}]'.encode("utf-16")), ("not UTF-8",), _READ),
    "latin-1": Broken(content('{"id": "caf\xe9"}'.encode("latin-1")), ("not UTF-8",), _READ),
    "utf-8-cut": Broken(content(b'{"id": "\xe2\x82'), ("not UTF-8",), _READ),
    "nul-bytes": Broken(content(b"\0" * 64), formats=(*_JSON, "toml", "picture")),
    "truncated": Broken(content(_ROW[:-8]), ("at line 1, column",), _JSON),
    "nan": Broken(content(b'[{"id": NaN}]'), ("NaN",), ("rows",)),
    "infinity": Broken(content(b'{"id": -Infinity}'), ("-Infinity",), _JSON),
    "number": Broken(content(b"3"), formats=_JSON),
    "string": Broken(content(b'"{}"'), formats=_JSON),
    "null": Broken(content(b"null"), formats=_JSON),
    "list-of-numbers": Broken(content(b"[1, 2]"), formats=_JSON),
    "deep": Broken(content(b"[" * 100_000), formats=("rows",)),
    "deep-object": Broken(content(b'{"a":' * 100_000), formats=("object", "json")),
    "long-number": Broken(content(b'{"id": ' + b"9" * 5000 + b"}"), ("digits",), ("object", "rows")),
    "control-character": Broken(content(b'{"id": "a\nb"}'), ("malformed JSON at line 1, column",), ("object",)),
    "trailing-comma": Broken(content(b'{"id": 1,}'), ("malformed JSON",), ("object", "rows")),
    "single-quotes": Broken(content(b"{'id': 1}"), ("malformed JSON at line 1, column 2",), ("object", "rows")),
    "two-objects": Broken(content(b'{"id": 1} {"id": 2}'), formats=("object", "rows")),
    "comment": Broken(content(b'// rows\n{"id": 1}'), ("malformed JSON at line 1, column 1",), ("object", "rows")),
    "python": Broken(content(b'[{"id": True}]'), ("malformed JSON",), ("rows",)),
    "html": Broken(content(b"<!DOCTYPE html><html></html>"), formats=(*_JSON, "toml", "picture")),
    "lfs-pointer": Broken(
        content(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"),
        ("Git LFS pointer",),
        _JSON,
    ),
    "surrogate-key": Broken(content(json.dumps([{"\ud800": 1}]).encode()), formats=("rows",)),
}
