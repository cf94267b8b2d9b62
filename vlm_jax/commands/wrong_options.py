"""What the parser of a command line has to say of options that are none, as one line."""

import contextlib
import io
from collections.abc import Iterator, Sequence

from vlm_jax.errors import InputError

# Parts of the parser's box that only explain.
_EXPLAINS = ("Argument helptext", "For full helptext")
_RULE = "─"
# Columns that the help of an option among several is set in.
_DEEPER = 9


@contextlib.contextmanager
def refused_in_one_line(verb: str, arguments: Sequence[str]) -> Iterator[None]:
    """Around the parsing of a verb's arguments with tyro, which draws a box and exits.

    Raises:
        InputError: The arguments are no options of the verb, or no UTF-8.
    """
    for argument in arguments:
        # As Python has bytes of an argument that are no UTF-8.
        if any("\udc80" <= letter <= "\udcff" for letter in argument):
            raise InputError(f"{argument.encode(errors='surrogateescape')}", "an argument in UTF-8")
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn):
            yield
        return
    except SystemExit as stopped:
        if not stopped.code:
            raise
    raise InputError("; ".join(_complaints(drawn.getvalue())), f"options as `vlm-jax {verb} --help` has them")


def _complaints(drawn: str) -> Iterator[str]:
    """What the parser has drawn into a box, part by part, without the help of single options."""
    part: list[str] = []
    # The first line is the box's title.
    for line in (*drawn.splitlines()[1:], _RULE):
        if not line.strip("│╰╯─- "):
            if part and not part[0].startswith(_EXPLAINS):
                said = " ".join(part).removesuffix(".").rstrip()
                yield f"{said[0].lower()}{said[1:]}"
            part = []
        elif not line.startswith(" " * _DEEPER, 1):
            part.append(line.strip("│ "))
