"""One hostile input: a command of which a single thing is wrong, or odd and legitimate, and how it has to end."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from good_commands import Ground, good

Arguments = Callable[[Ground], Sequence[Any]]


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and what it wrote where."""

    code: int
    out: str
    err: str
    ground: Ground


@dataclasses.dataclass(frozen=True)
class Refused:
    """Ends with code 2 and one line that has all of these words in it; no file is new or changed.

    Attributes:
        words: Of the line; a callable is told the ground, for names that lie in it.
        keeps: Names of what may be new in the ground all the same, and why is said where it stands.
    """

    words: tuple[str | Callable[[Ground], str], ...]
    keeps: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Gives:
    """Odd, but legitimate: ends well, and ``check`` looks at what came out."""

    check: Callable[[Ended], None]


@dataclasses.dataclass(frozen=True)
class Case:
    """A row of the table.

    Attributes:
        verb: As on the command line, ``eval pope``.
        name: What is wrong and how, ``rows-nan``.
        arguments: What stands behind the verb.
        expected: How it ends.
        slow: Whether it belongs to ``make test-hostile`` alone.
        skip: Why it cannot be tried on this machine.
    """

    verb: str
    name: str
    arguments: Arguments
    expected: Refused | Gives
    slow: bool = False
    skip: str | None = None

    @property
    def id(self) -> str:
        return f"{self.verb.replace(' ', '-')}-{self.name}"


def refused(*words: str | Callable[[Ground], str], keeps: tuple[str, ...] = ()) -> Refused:
    return Refused(words, keeps)


def said(text: str) -> Gives:
    """The standard output has this in it."""

    def check(ended: Ended) -> None:
        assert text in ended.out, ended.out

    return Gives(check)


def instead(verb: str, *places: int | str, **options: Any) -> Arguments:
    """The good command of a verb with other options (``max_length`` is ``--max-length``; None leaves one out; of a
    callable, what it makes of the ground; True is a flag).

    Args:
        verb: As on the command line.
        places: A place among the positional arguments and what stands there instead.
        options: The others.
    """

    def line(ground: Ground) -> list[Any]:
        positional, named = good(verb, ground)
        for place, value in zip(places[::2], places[1::2], strict=True):
            positional[place] = value
        named |= {f"--{name.replace('__', '.').replace('_', '-')}": value for name, value in options.items()}
        found = [value(ground) if callable(value) else value for value in positional]
        for name, value in named.items():
            value = value(ground) if callable(value) else value
            if value is not None:
                found += [name, *(() if value is True else value if isinstance(value, tuple) else (value,))]
        return [one for one in found if one is not None]

    return line


def written(name: str, content: Any) -> Callable[[Ground], Path]:
    """A file of the ground, as the value of an option."""
    return lambda ground: ground.write(name, content)


def named(name: str) -> Callable[[Ground], Path]:
    """A name in the ground where nothing is yet."""
    return lambda ground: ground.folder / name
