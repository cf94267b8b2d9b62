"""What a benchmark's command reads and writes."""

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vlm_jax.errors import InputError
from vlm_jax.files import file_sha256, plain, require_writable

# Options that are written.
_WRITTEN = ("output", "submission")
_BESIDE = (".json", ".html", ".samples.jsonl")


def check_written(options: Any) -> None:
    """Of a command with an ``output``, before hours of work.

    Raises:
        InputError: The output is no .json or a folder, or something that is read would be written over.
    """
    if options.output.suffix != ".json":
        raise InputError(f"--output {options.output}", "a name that ends in .json")
    if options.output.is_dir():
        raise InputError("a folder", "a file for the result", file=str(options.output))
    paths = list(_paths(options))
    # Unlike Path.resolve, realpath has something to say of links in a circle.
    written = {os.path.realpath(options.output.with_suffix(end)) for end in _BESIDE}
    written |= {os.path.realpath(path) for name, path in paths if name in _WRITTEN}
    for name, path in paths:
        if name not in _WRITTEN and os.path.realpath(path) in written:
            raise InputError(f"--{name} {path}, which would be written over", "another --output or --submission")
    require_writable(options.output)


def making(options: Any) -> dict[str, Any]:
    """What a result says of its making: ``options`` as given, and under ``files`` the ``sha256`` of each file among
    them (a checkpoint's and its adapter's stand in the record beside the answers)."""
    files = {
        name: {"path": str(path), "sha256": file_sha256(path).hex()}
        for name, path in _paths(options)
        if name not in _WRITTEN and path.is_file()
    }
    return {"options": plain(dataclasses.asdict(options)), "files": files}


def _paths(options: Any) -> Iterator[tuple[str, Path]]:
    """Names and values of all options that are paths, those of nested options and a judge's saved file included."""
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            yield from _paths(value)
        elif isinstance(value, Path):
            yield field.name, value
        elif isinstance(value, tuple):
            yield from ((f"{field.name}_{place}", one) for place, one in enumerate(value, 1) if isinstance(one, Path))
        elif field.name == "judge" and value.startswith("replay:"):
            yield field.name, Path(value.removeprefix("replay:"))
