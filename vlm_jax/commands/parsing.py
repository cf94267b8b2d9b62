"""A verb's options from the words of a command line."""

import contextlib
import io
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import tyro

from vlm_jax.errors import InputError

# Parts of the parser's box that only explain.
_EXPLAINS = ("Argument helptext", "For full helptext")
_RULE = "─"
# Columns that the help of an option among several is set in.
_DEEPER = 9


def parse(verb: str, module: ModuleType, arguments: Sequence[str]) -> Any:
    """An instance of ``module.Options``. Help is printed, and ends the process.

    Args:
        verb: As on the command line.
        module: The verb's.
        arguments: What stands behind the verb.

    Raises:
        InputError: The words are no options of the verb.
    """
    for argument in arguments:
        # As Python has bytes of an argument that are no UTF-8.
        if any("\udc80" <= letter <= "\udcff" for letter in argument):
            raise InputError(f"{argument.encode(errors='surrogateescape')}", "an argument in UTF-8")
    drawn = io.StringIO()
    try:
        with contextlib.redirect_stderr(drawn):
            return tyro.cli(
                module.Options,
                prog=f"vlm-jax {verb}",
                args=arguments,
                description=module.__doc__,
                # An option that may be left out is left out, not set to None.
                config=(tyro.conf.DisallowNone,),
            )
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
