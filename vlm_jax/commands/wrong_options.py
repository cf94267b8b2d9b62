"""What the parser of a command line has to say of options that are none, as one line."""

import contextlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vlm_jax.errors import InputError

# Parts of the parser's box that only explain.
_EXPLAINS = ("Argument helptext", "For full helptext")
# Those that list options, each with its help below it, set in by so much.
_LISTS = ("Missing from", "Perhaps you meant", "Arguments similar to")
_DEEPER = " " * 8
_SIDE, _RULE = "│", "─"
# More columns than anything that is drawn has: the parser breaks lines in the middle of words.
_UNBOUNDED = 1 << 30


def parsed_or_refused(verb: str, arguments: Sequence[str], parse: Callable[[], Any]) -> Any:
    """What a parser that is tyro's makes of a verb's arguments; tyro itself draws a box and exits.

    Args:
        verb: As the user writes it.
        arguments: What follows it.
        parse: Parses them; once more where it fails, for a box that is drawn as wide as it needs to be.

    Raises:
        SystemExit: Help was asked for.
        InputError: The arguments are no options of the verb, or no UTF-8.
    """
    for argument in arguments:
        # As Python has bytes of an argument that are no UTF-8.
        if any("\udc80" <= letter <= "\udcff" for letter in argument):
            raise InputError(f"{argument.encode(errors='surrogateescape')}", "an argument in UTF-8")
    try:
        with contextlib.redirect_stderr(io.StringIO()):
            return parse()
    except SystemExit as stopped:
        if not stopped.code:
            raise
    raise InputError("; ".join(_complaints(_drawn_whole(parse))), f"options as `vlm-jax {verb} --help` has them")


class _Page(io.StringIO):
    """What tyro draws frames on, and no colours."""

    encoding = "utf-8"


def _drawn_whole(parse: Callable[[], Any]) -> str:
    """The box in which a parse ends, none of its lines broken."""
    drawn = io.StringIO()
    with _columns(_UNBOUNDED), contextlib.redirect_stdout(_Page()), contextlib.redirect_stderr(drawn):
        try:
            parse()
        except SystemExit:
            return drawn.getvalue()
    raise AssertionError("arguments that were refused before are taken")


@contextlib.contextmanager
def _columns(number: int) -> Iterator[None]:
    """A terminal of this width, for whoever asks."""
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = str(number)
    try:
        yield
    finally:
        del os.environ["COLUMNS"]
        if before is not None:
            os.environ["COLUMNS"] = before


def _complaints(drawn: str) -> Iterator[str]:
    """What the parser has drawn into a box, part by part, without the help of single options."""
    # Without the side edges; a rule goes from one to the other.
    lines = [line[2:-2] for line in drawn.split("\n") if line.startswith(_SIDE)]
    part: list[str] = []
    for line in (*lines, _RULE):
        if not line.strip(_RULE):
            if part and not part[0].startswith(_EXPLAINS):
                said = " ".join(part).removesuffix(".").rstrip()
                yield f"{said[0].lower()}{said[1:]}"
            part = []
        elif line.strip() and not (line.startswith(_DEEPER) and part and part[0].startswith(_LISTS)):
            part.append(line.strip())
