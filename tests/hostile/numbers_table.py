"""Every number of every verb's options, once, with a value that it cannot have."""

import dataclasses
import importlib
import itertools
import typing
from collections.abc import Iterator
from typing import Annotated, Any

import tyro
from good_commands import VERBS_AND_BENCHMARKS
from hostile_case import Case, instead, refused

from vlm_jax.ranges import Range

_FLOATS = ("nan", "inf", "-inf", "1e30", "-1", "-1e-30")
_WHOLE = ("-1", "0", str(10**30), "1e3", "nan", "1.5", "0x10", "-9223372036854775809", "", "\u0663\u0664\u0665" * 9)


def _module(verb: str) -> Any:
    name = verb.replace("eval ", "eval.").replace("-", "_")
    return importlib.import_module(f"vlm_jax.commands.{name}")


def _numbers(options: type, prefix: str = "") -> Iterator[tuple[str, type, Range, int]]:
    """Option, type, range, and how many values it takes."""
    for name, hint in typing.get_type_hints(options, include_extras=True).items():
        marks, bare = getattr(hint, "__metadata__", ()), hint
        if typing.get_origin(hint) is Annotated:
            bare = typing.get_args(hint)[0]
        if dataclasses.is_dataclass(bare):
            flat = any(mark is tyro.conf.OmitArgPrefixes or getattr(mark, "name", None) == "" for mark in marks)
            yield from _numbers(bare, prefix if flat else f"{prefix}{name}__")
        for mark in marks:
            if isinstance(mark, Range):
                kinds = str(bare)
                yield f"{prefix}{name}", int if "int" in kinds else float, mark, 2 if "float, float" in kinds else 1


def _cases() -> Iterator[Case]:
    whole, floats = itertools.cycle(_WHOLE), itertools.cycle(_FLOATS)
    for verb in VERBS_AND_BENCHMARKS:
        for place, (option, kind, allowed, count) in enumerate(_numbers(_module(verb).Options)):
            values = whole if kind is int else floats
            value = next(one for one in values if not _fits(one, kind, allowed))
            name = f"--{option.replace('__', '.').replace('_', '-')}"
            # With its sign of equality, or a negative number would look like an option.
            given = {f"{option}": (value,) * count} if count > 1 and not value.startswith("-") else {}
            arguments = instead(verb, **given) if given else _joined(verb, option, value)
            # A value that is no number is told by the option's name, a number by its own as well.
            yield Case(verb, f"{option}={value!a}", arguments, refused(name), slow=place % 8 != 0)


def _joined(verb: str, option: str, value: str) -> Any:
    line = instead(verb, **{option: None})
    name = f"--{option.replace('__', '.').replace('_', '-')}"
    return lambda ground: [*line(ground), f"{name}={value}"]


def _fits(text: str, kind: type, allowed: Range) -> bool:
    try:
        return kind(text) in allowed
    except ValueError:
        return False


CASES = list(_cases())
