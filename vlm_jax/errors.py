"""What a run can end with that is no mistake of this package."""

import difflib
import errno
import functools
import sys
from collections.abc import Iterable, Mapping

# Of the system, where a place cannot be written to: a user's to mend, as an InputError is.
PLACE_ERRORS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EFBIG,
        errno.EROFS,
        errno.EACCES,
        errno.EPERM,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.EEXIST,
        errno.ENOENT,
        errno.ENAMETOOLONG,
        errno.ELOOP,
        errno.ENOTEMPTY,
        errno.EBUSY,
        errno.EINVAL,
        errno.ENODEV,
        errno.ENXIO,
        errno.EIO,
    }
)


# Letters of each half of a message: a file of a million keys is no message.
_LONGEST = 2000


def one_line(text: str) -> str:
    """A text that may hold names and words of anybody, as a line for a terminal: a blank stands between its lines, and
    letters that steer it or are no Unicode stand as Python spells them."""
    text = " ".join(line for line in map(str.strip, text.splitlines()) if line)
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def note(place: object, remark: str) -> None:
    """Say on the standard error stream what a user should know of a file or folder that is used all the same."""
    print(one_line(f"note: {place}: {remark}"), file=sys.stderr)


class InputError(Exception):
    """Something a user handed in cannot be used; the message is one line that says where, what and why.

    The command line prints the message and exits with code 2. It reads
    ``FILE, row ROW: found FOUND; expected EXPECTED``, without the parts that are not known.

    Args:
        found: What the input holds.
        expected: What it should hold.
        file: Path of the offending file, or None where the text came from memory.
        row: 1-based number of the record (list), of the line (JSON lines) or of the entry (dict).
    """

    def __init__(self, found: str, expected: str, *, file: str | None = None, row: int | None = None):
        self.found, self.expected, self.file, self.row = found, expected, file, row
        place = ", ".join(part for part in (file, row and f"row {row}") if part)
        parts = (part if len(part) <= _LONGEST else f"{part[:_LONGEST]} ..." for part in (found, expected))
        super().__init__(one_line("{}: found {}; expected {}".format(place, *parts).removeprefix(": ")))

    def __reduce__(self):
        # Exceptions travel between processes by their arguments, and the message alone does not rebuild this one.
        return functools.partial(InputError, file=self.file, row=self.row), (self.found, self.expected)

    def at(self, file: str, row: int | None = None) -> "InputError":
        """The same error placed in a row of ``file``; a file that was already known moves into ``found``."""
        found = f"{self.found} in {self.file}" if self.file else self.found
        return InputError(found, self.expected, file=file, row=row)


class TooLongError(InputError):
    """A text that does not fit the positions which a run gives it."""

    def at(self, file: str, row: int | None = None) -> "TooLongError":
        return TooLongError(self.found, self.expected, file=file, row=row)

    def __reduce__(self):
        return functools.partial(TooLongError, file=self.file, row=self.row), (self.found, self.expected)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`` (did you mean 'NAME'?)``, which follows a name that is none of a closed list; empty where none is near it."""
    spelt = {one.lower(): one for one in known}
    near = difflib.get_close_matches(name.lower(), spelt, n=1)
    return f" (did you mean {spelt[near[0]]!r}?)" if near else ""


def require_positive(options: object, *names: str) -> None:
    """Raises an :class:`InputError` that names every one of these attributes which is a number not above 0."""
    values = {name: getattr(options, name) for name in names}
    odd = [f"{name} {value}" for name, value in values.items() if value is not None and value <= 0]
    if odd:
        raise InputError(", ".join(odd), "numbers above 0")


def require_parts(rows: int, parts: int, what: str) -> None:
    """Raises an :class:`InputError` where a batch cannot be split into parts of equal size."""
    if rows % parts:
        raise InputError(f"a batch of {rows} in {parts} {what}", "parts of equal size")


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """What two descriptions of one thing disagree in, "name FOUND instead of EXPECTED; ..."; empty where they agree.

    FOUND stands in the file that the error is about, if it is about one.
    """
    return "; ".join(
        f"{name} {found.get(name, 'nothing')} instead of {expected.get(name, 'nothing')}"
        for name in sorted(found.keys() | expected.keys())
        if found.get(name) != expected.get(name)
    )


class DivergedError(Exception):
    """A training metric is no finite number any more or beyond its bound, or a part that is trained stands still.

    Going on would only burn time.
    """


class TerminatedError(Exception):
    """A run was asked to end (SIGTERM) and has saved where it stood."""
