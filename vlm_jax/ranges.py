"""What numbers a command's options may be: declared with the option, checked before anything is opened.

batch_size: Annotated[int, Range(1, 1024)] = 16
learning_rate: Annotated[float, Range(0, 1, open=True)] = 1e-5
"""

import dataclasses
import math
import typing
from typing import Any

from vlm_jax.errors import InputError

# What a seed of jax may be and still be told from all others; and counts that only have to be sane.
LARGEST_SEED = 2**32 - 1
LARGEST_COUNT = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Range:
    """Both ends included.

    Attributes:
        low: The least.
        high: The most.
        open: Whether ``low`` itself is left out.
    """

    low: int | float
    high: int | float
    open: bool = False

    def __contains__(self, value: int | float) -> bool:
        # Nothing compares with NaN.
        return value <= self.high and (value > self.low if self.open else value >= self.low)

    def __str__(self) -> str:
        return f"above {self.low}, at most {self.high}" if self.open else f"from {self.low} to {self.high}"


def check_ranges(options: Any) -> None:
    """Every number among the options, those of nested options and the items of tuples included, lies in the range that
    is declared with it, and is finite in any case. None, an option that was left out, is no number.

    Args:
        options: A dataclass.

    Raises:
        InputError: One does not; names the option as the command line has it, its value and its range.
    """
    _check(options, "")


def _check(options: Any, prefix: str) -> None:
    hints = typing.get_type_hints(type(options), include_extras=True)
    for field in dataclasses.fields(options):
        value, marks = getattr(options, field.name), getattr(hints[field.name], "__metadata__", ())
        name = f"{prefix}{field.name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            _check(value, prefix if _has_no_prefix(marks) else f"{name}.")
            continue
        wanted = next((mark for mark in marks if isinstance(mark, Range)), None)
        for one in value if isinstance(value, tuple) else (value,):
            if type(one) not in (int, float):
                continue
            if wanted is not None and one not in wanted:
                raise InputError(f"--{name} {one}", f"a number {wanted}")
            if not math.isfinite(one):
                raise InputError(f"--{name} {one}", "a finite number")


def _has_no_prefix(marks: tuple[Any, ...]) -> bool:
    """Whether nested options stand among their parent's on the command line."""
    import tyro

    return any(mark is tyro.conf.OmitArgPrefixes or getattr(mark, "name", None) == "" for mark in marks)
