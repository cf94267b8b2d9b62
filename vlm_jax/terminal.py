"""What help looks like on the terminal that shows it: how wide, and whether in colours."""

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Mapping

_CODE = re.compile(r"\x1b\[[\d;]*m")
# Nobody reads lines of 200 letters, and a word must fit.
_NARROWEST, _WIDEST = 40, 100


def has_colours() -> bool:
    """Whether escape codes are wanted: output and errors go to terminals that know them, and nobody set ``NO_COLOR``
    (no-color.org)."""
    if os.environ.get("NO_COLOR") or os.environ.get("TERM", "dumb") == "dumb":
        return False
    return all(stream is not None and stream.isatty() for stream in (sys.stdout, sys.stderr))


def wrapped(text: str) -> str:
    """Paragraphs filled to the terminal's width; what is indented is a command, which goes on behind a backslash."""
    return "\n\n".join(map(_paragraph, text.strip().split("\n\n")))


def listed(entries: Mapping[str, str]) -> str:
    """Names with what they mean beside them, filled to the terminal's width."""
    room = max(map(len, entries)) + 1
    lines = (_filled(line, f"  {name:{room}}", " " * (room + 2)) for name, line in entries.items())
    return "\n".join("\n".join(line) for line in lines)


def _paragraph(text: str) -> str:
    if not text.startswith(" "):
        return "\n".join(_filled(" ".join(text.split())))
    commands = re.sub(r" \\\n +", " ", text).splitlines()
    return "\n".join(map(_command, commands))


def _command(line: str) -> str:
    # An option stays beside its values.
    held = re.sub(r" (?!-)", "\xa0", line.strip())
    return " \\\n".join(_filled(held, "  ", " " * 6, room=len(" \\"))).replace("\xa0", " ")


def _filled(text: str, first: str = "", others: str = "", room: int = 0) -> list[str]:
    width = max(_NARROWEST, min(shutil.get_terminal_size().columns, _WIDEST)) - room
    wrapper = _Wrapper(
        width,
        initial_indent=first,
        subsequent_indent=others,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return wrapper.wrap(text)


class _Wrapper(textwrap.TextWrapper):
    """Takes a word for as long as it is shown."""

    def _split(self, text: str) -> list[str]:
        return [_Shown(word) for word in super()._split(text)]


class _Shown(str):
    """A text whose codes of colours have no length."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(_CODE.sub("", str(self)))
