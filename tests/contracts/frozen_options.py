"""Every verb's options as its own help tells them, one a line; written to options.txt by

python tests/contracts/frozen_options.py
"""

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from vlm_jax.cli import VERBS, main
from vlm_jax.commands.eval import BENCHMARKS

FILE = Path(__file__).parent / "options.txt"
HEAD = "# Verb, option, type, default. Regenerate: python tests/contracts/frozen_options.py\n"
COMMANDS = (*(verb for verb in VERBS if verb != "eval"), *(f"eval {name}" for name in BENCHMARKS))

# A line of a box of options: an option or positional argument, what it takes, and perhaps the start of its help.
_FIRST = re.compile(r"(?P<option>\S.*?)(?:\s{2,}(?P<help>.*))?")
_STARTS = re.compile(r"-|[\[{]|[A-Z_]+(\s\s|$)")
_DEFAULT = re.compile(r"\((required|recipe|default: .*)\)$")


def help_of(command: str) -> str:
    """What ``vlm-jax COMMAND --help`` prints: wide enough for types not to be broken, unless boxes then stand side by
    side."""
    said = _printed(command, 400)
    return _printed(command, 128) if "││" in said else said


def _printed(command: str, columns: int) -> str:
    # Only where the output can hold them are there frames around the options.
    said = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    wide = mock.patch.dict(os.environ, {"COLUMNS": str(columns)})
    with wide, contextlib.redirect_stdout(said), contextlib.suppress(SystemExit):
        main([*command.split(), "--help"])
    said.flush()
    return said.buffer.getvalue().decode()


def options_of(command: str) -> Iterator[str]:
    """``--steps INT (default: 40)``, in the order of the help."""
    framed = [line[2:-2] for line in help_of(command).splitlines() if line.startswith("│")]
    entries: list[list[str]] = []
    for line in framed:
        if _STARTS.match(line):
            entries.append([line.rstrip()])
        elif line.startswith(" "):
            entries[-1].append(line.strip())
        # What else stands there is a group's title and the rule under it.
    for first, *more in entries:
        option, text = _FIRST.fullmatch(first).groups()
        if option.startswith("-h, "):
            continue
        (default,) = _DEFAULT.findall(" ".join(filter(None, (text, *more))))
        yield f"{option} ({default})"


def listed() -> str:
    return HEAD + "".join(f"{command} {option}\n" for command in COMMANDS for option in options_of(command))


if __name__ == "__main__":
    FILE.write_text(listed(), encoding="utf-8")
