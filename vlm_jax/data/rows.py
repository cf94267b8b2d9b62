"""JSON files to rows that know where they came from."""

import json
import sys
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from vlm_jax.errors import InputError
from vlm_jax.files import malformed, read_lines, read_text, refuse_constant, refuse_packed

_LAYOUT = "a JSON list of objects, or one JSON object per line"


class Origin(NamedTuple):
    """File and 1-based row (of a list) or line (of JSON lines); None where the name says all."""

    file: str
    row: int | None


class Row(NamedTuple):
    """One JSON object with readers that raise an ``InputError`` naming its file and row."""

    origin: Origin
    values: dict[str, Any]

    def wrong(self, found: str, expected: str) -> InputError:
        return InputError(found, expected, file=self.origin.file, row=self.origin.row)

    def require(self, key: str) -> Any:
        if key not in self.values:
            raise self.wrong(f"no {key!r} among the keys {sorted(self.values)}", f"a key {key!r}")
        return self.values[key]

    def text(self, value: Any, what: str) -> str:
        """``value`` if it is text that UTF-8 can hold (JSON can spell half a surrogate pair)."""
        if not isinstance(value, str):
            raise self.wrong(f"{what} of type {type(value).__name__}", f"{what} as text")
        # ASCII, which Python knows without looking, is valid.
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise self.wrong(f"{what} with a lone surrogate", f"{what} as valid Unicode") from None
        return value

    def filled(self, value: Any, what: str) -> str:
        """``value`` if it is text that says something."""
        if not self.text(value, what).strip():
            raise self.wrong(f"{what} without text", f"{what} with text")
        return value

    def string(self, key: str) -> str:
        """The text under ``key``."""
        value = self.values.get(key)
        if type(value) is str and value.isascii():
            return value
        return self.text(self.require(key), key)

    def integer(self, key: str, allowed: range, default: int | None = None) -> int:
        value = self.require(key) if default is None else self.values.get(key, default)
        if type(value) is not int or value not in allowed:
            choices = " or ".join(map(str, allowed)) if len(allowed) == 2 else f"{allowed[0]} to {allowed[-1]}"
            raise self.wrong(f"{key} {value!r}", f"{key} {choices}")
        return value

    def number(self, key: str, default: float) -> float:
        value = self.values.get(key, default)
        # An int has no infinity, and may be beyond all floats.
        if type(value) not in (int, float) or not abs(value) <= sys.float_info.max:
            raise self.wrong(f"{key} {value!r:.40}", f"{key} as a finite number")
        return float(value)


_DECODER = json.JSONDecoder(parse_constant=refuse_constant)


def _decode(text: str, start: int, origin: Origin, first_line: int = 1, layout: str = _LAYOUT) -> tuple[Any, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        found = malformed(error, first_line - 1)
        raise InputError(found, layout, file=origin.file, row=origin.row) from None
    except InputError as error:
        raise error.at(*origin) from None
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, thousands of brackets.
        found = f"JSON beyond any use ({str(error)[:60]})"
        raise InputError(found, layout, file=origin.file, row=origin.row) from None


def _skip_space(text: str, start: int) -> int:
    while start < len(text) and text[start] in " \t\r\n":
        start += 1
    return start


def _list_values(
    text: str, file: str, start: int, layout: str = _LAYOUT
) -> Generator[tuple[Origin, Any], None, tuple[int, Origin]]:
    """The values of the list that opens at ``start``; returns the place behind it, and the origin of its last value."""
    # Value by value, so that an error can name the row.
    position, row = _skip_space(text, start + 1), 0
    while text[position : position + 1] != "]":
        row += 1
        value, position = _decode(text, position, Origin(file, row), layout=layout)
        yield Origin(file, row), value
        position = _skip_space(text, position)
        if text[position : position + 1] == ",":
            position = _skip_space(text, position + 1)
            if text[position : position + 1] == "]":
                _refuse_rest(text, position, Origin(file, row), "a row behind the comma")
        elif text[position : position + 1] != "]":
            _refuse_rest(text, position, Origin(file, row), "',' or ']' after the row")
    return position + 1, Origin(file, row)


def _only_list(text: str, file: str) -> Iterator[tuple[Origin, Any]]:
    end, last = yield from _list_values(text, file, _skip_space(text, 0))
    if (end := _skip_space(text, end)) < len(text):
        _refuse_rest(text, end, last, "nothing after the closing ']'")


def _refuse_rest(text: str, position: int, origin: Origin, expected: str) -> None:
    line, column = text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position)
    found = repr(text[position : position + 20]) if position < len(text) else "the end of the file"
    raise InputError(f"{found} at line {line}, column {column}", expected, file=origin.file, row=origin.row)


def _line_values(lines: Iterable[str], file: str, first: int = 1) -> Iterator[tuple[Origin, Any]]:
    for number, line in enumerate(lines, first):
        if line := line.strip():
            origin = Origin(file, number)
            value = _quickly(line)
            if value is None:
                value, end = _decode(line, 0, origin, first_line=number)
                if end < len(line):
                    raise InputError(f"{line[end : end + 20]!r} after the object", _LAYOUT, file=file, row=number)
            yield origin, value


def _quickly(line: str) -> dict[str, Any] | None:
    """An object by orjson; None where Python's decoder has to say what is wrong, or to read a number: to orjson a whole
    one of more than 64 bits is a float."""
    try:
        value = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    return value if type(value) is dict and float not in map(type, value.values()) else None


def _values(path: str | Path) -> Iterator[tuple[Origin, Any]]:
    refuse_packed(path)
    first = next((line for line in read_lines(path) if line.strip()), "")
    if first.lstrip().startswith("["):
        return _only_list(read_text(path), str(path))
    return _line_values(read_lines(path), str(path))


def iter_rows(path: str | Path) -> Iterator[Row]:
    """The rows of a JSON list or of a JSON-lines file (LF or CRLF, byte order mark allowed); of JSON lines one is held
    at a time.

    Raises:
        InputError: Malformed JSON (line and column are named), NaN or Infinity, a row that is no object, or
            no row.
    """
    yield from _objects(_values(path), str(path), _LAYOUT)


def _objects(values: Iterable[tuple[Origin, Any]], file: str, layout: str) -> Iterator[Row]:
    none = True
    for origin, value in values:
        if not isinstance(value, dict):
            raise InputError(f"a row of type {type(value).__name__}", layout, file=origin.file, row=origin.row)
        none = False
        yield Row(origin, value)
    if none:
        raise InputError("no rows", layout, file=file)


def row_of(line: str, file: str, number: int) -> Row:
    """A line of JSON lines that was read from a file already; errors as in :func:`iter_rows`."""
    return next(_objects(_line_values([line], file, number), file, _LAYOUT))


def read_rows(path: str | Path) -> list[Row]:
    """All of :func:`iter_rows`."""
    return list(iter_rows(path))


def iter_listed(path: str | Path, key: str) -> Iterator[Row]:
    """The rows of the list under ``key`` of a file that holds one JSON object, one decoded at a time: files of
    annotations have hundreds of megabytes, and as objects of Python several times that. What follows the list is not
    looked at.

    Raises:
        InputError: As in :func:`iter_rows`, or the file is no object with such a list.
    """
    refuse_packed(path)
    text, file = read_text(path), str(path)
    layout = f"a JSON object with a list of objects under {key!r}"
    yield from _objects(_list_values(text, file, _list_start(text, file, key, layout), layout), file, layout)


def _list_start(text: str, file: str, key: str, layout: str) -> int:
    """Where the list under ``key`` opens."""
    origin, keys = Origin(file, 0), []
    position = _skip_space(text, 0)
    if text[position : position + 1] != "{":
        raise InputError("no JSON object", layout, file=file)
    while text[position : position + 1] in ("{", ","):
        name, position = _decode(text, _skip_space(text, position + 1), origin, layout=layout)
        keys.append(name)
        position = _skip_space(text, position)
        if text[position : position + 1] != ":":
            _refuse_rest(text, position, origin, "':' after the key")
        position = _skip_space(text, position + 1)
        if name == key and text[position : position + 1] == "[":
            return position
        _, position = _decode(text, position, origin, layout=layout)
        position = _skip_space(text, position)
    raise InputError(f"no list {key!r} among the keys {keys}", layout, file=file)
