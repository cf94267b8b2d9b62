"""Files and folders that are either complete or absent."""

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from vlm_jax.errors import InputError


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A temporary sibling to write into: it takes the folder's name at the end, or goes if the block raises.

    Raises:
        InputError: ``folder`` exists already; nothing is overwritten.
    """
    if folder.exists():
        raise InputError("a folder or file that exists already", "a new name", file=str(folder))
    partial = folder.with_name(f".{folder.name}.partial-{os.getpid()}")
    partial.mkdir(parents=True)
    try:
        yield partial
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        InputError: The file is missing, or is not a JSON object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError("no such file", "a JSON file", file=str(path)) from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise InputError(str(error), "a JSON file", file=str(path)) from None
    if not isinstance(value, dict):
        raise InputError(type(value).__name__, "a JSON object", file=str(path))
    return value


def write_json(path: str | Path, value: object) -> None:
    """Readable UTF-8 JSON with a newline at its end."""
    write_bytes(path, (json.dumps(value, ensure_ascii=False, indent=2) + "\n").encode())


def write_json_lines(path: str | Path, rows: Iterable[dict]) -> None:
    """One compact JSON object a line."""
    write_bytes(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write beside the target, then rename onto it, making folders on the way."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)
