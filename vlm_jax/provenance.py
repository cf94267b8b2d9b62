"""A record beside a result says what it was made from: the same goes on or is found, anything else is refused.

A record is JSON. Its keys ``options`` (all as asked for, paths included) and ``base.source`` are for the reader and not
compared.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vlm_jax.errors import InputError, differences
from vlm_jax.files import plain, read_json, write_json

_FOR_THE_READER = ("options", "base.source")


def claim(record: Path, made: Mapping[str, Any]) -> None:
    """Write the record, or compare with the one that is there.

    Raises:
        InputError: The record that is there says that something else was made; names what differs.
    """
    if not record.exists():
        write_json(record, plain(made))
        return
    before, now = (_compared(values) for values in (read_json(record), plain(made)))
    # What is left out counts as None: a record may be older than a setting that does nothing unless it is set.
    before, now = ({name: known.get(name, repr(None)) for name in before | now} for known in (before, now))
    if odd := differences(before, now):
        raise InputError(odd, "the same settings and inputs, or another place for the result", file=str(record))


def _compared(made: Mapping[str, Any]) -> dict[str, str]:
    return {name: repr(value) for name, value in fields(made) if not name.startswith(_FOR_THE_READER)}


def finished(result: Path, record: Path, made: Mapping[str, Any]) -> bool:
    """Whether this very result is there already; says so, since the verb then has nothing to do.

    Raises:
        InputError: There is a result, but it was made from something else, or nothing says from what.
    """
    if not result.exists():
        return False
    if not record.exists():
        raise InputError("a result without a record of its making", str(record), file=str(result))
    claim(record, made)
    print(f"finished already: {result}")
    return True


def fields(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Leaves of nested objects with their keys joined by dots."""
    if not isinstance(value, Mapping):
        yield name, value
        return
    for key, inner in value.items():
        yield from fields(inner, f"{name}.{key}".lstrip("."))
