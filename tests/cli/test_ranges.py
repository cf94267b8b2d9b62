"""Every number on the command line has a range, and one outside is refused before anything is opened."""

import dataclasses
import importlib
import typing
from typing import Annotated

import pytest
import tyro

from vlm_jax.cli import main
from vlm_jax.commands.eval import BENCHMARKS
from vlm_jax.errors import InputError
from vlm_jax.ranges import Range, check_ranges


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: Annotated[float, Range(0, 1, open=True)] = 0.5
    name: str = "nan"


@dataclasses.dataclass(frozen=True)
class Outer:
    batch_size: Annotated[int, Range(1, 8)] = 4
    limit: Annotated[int | None, Range(1, 10)] = None
    prices: Annotated[tuple[float, float] | None, Range(0, 100)] = None
    free: float = 0.0
    strict: bool = True
    inner: Inner = Inner()
    flat: Annotated[Inner, tyro.conf.arg(name="")] = Inner()
    short: tyro.conf.OmitArgPrefixes[Inner] = Inner()


def test_what_lies_inside():
    check_ranges(Outer())
    check_ranges(Outer(batch_size=1, limit=10, prices=(0.0, 100.0), strict=False, inner=Inner(rate=1.0)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 0}, "found --batch-size 0; expected a number from 1 to 8"),
        ({"batch_size": 9}, "found --batch-size 9; expected a number from 1 to 8"),
        ({"limit": -1}, "found --limit -1; expected a number from 1 to 10"),
        ({"prices": (1.0, -0.5)}, "found --prices -0.5; expected a number from 0 to 100"),
        ({"prices": (float("nan"), 1.0)}, "found --prices nan; expected a number from 0 to 100"),
        ({"free": float("inf")}, "found --free inf; expected a finite number"),
        ({"inner": Inner(rate=0.0)}, "found --inner.rate 0.0; expected a number above 0, at most 1"),
        ({"inner": Inner(rate=float("nan"))}, "found --inner.rate nan; expected a number above 0, at most 1"),
        ({"flat": Inner(rate=-0.0)}, "found --rate -0.0; expected a number above 0, at most 1"),
        ({"short": Inner(rate=float("inf"))}, "found --rate inf; expected a number above 0, at most 1"),
    ],
)
def test_what_lies_outside(changes, said):
    with pytest.raises(InputError) as stopped:
        check_ranges(Outer(**changes))
    assert str(stopped.value) == said


def numbers_without_a_range(options: type) -> list[str]:
    found = []
    for name, hint in typing.get_type_hints(options, include_extras=True).items():
        marks, bare = getattr(hint, "__metadata__", ()), typing.get_args(hint)[0] if typing.get_args(hint) else hint
        if typing.get_origin(hint) is not Annotated:
            bare = hint
        if dataclasses.is_dataclass(bare):
            found += [f"{name}.{inner}" for inner in numbers_without_a_range(bare)]
        elif _has_numbers(bare) and not any(isinstance(mark, Range) for mark in marks):
            found.append(name)
    return found


def _has_numbers(hint) -> bool:
    if typing.get_origin(hint) is typing.Literal or typing.get_origin(hint) is typing.ClassVar:
        return False
    return hint in (int, float) or any(map(_has_numbers, typing.get_args(hint)))


def test_the_walk_finds_numbers():
    assert numbers_without_a_range(Outer) == ["free"]


@pytest.mark.parametrize("benchmark", BENCHMARKS)
def test_every_number_of_a_benchmark_has_a_range(benchmark):
    module = importlib.import_module(f"vlm_jax.commands.eval.{benchmark.replace('-', '_')}")
    assert numbers_without_a_range(module.Options) == []


NOWHERE = ["--questions", "none.json", "--output", "o.json", "--answers", "none.jsonl"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["pope", *NOWHERE, "--batch-size", "0"], "--batch-size 0; expected a number from 1 to"),
        (["pope", *NOWHERE, "--temperature", "nan"], "--temperature nan; expected a number from 0 to"),
        (["pope", *NOWHERE, "--seed", "-1"], "--seed -1; expected a number from 0 to"),
        (["vqa", *NOWHERE, "--annotations", "no.json", "--mesh.tensor", "0"], "--mesh.tensor 0; expected a number"),
        (["mmhal", *NOWHERE, "--judge", "u", "--judge-timeout", "nan"], "--judge-timeout nan; expected a number"),
        (["mmhal", *NOWHERE, "--judge", "u", "--judge-timeout", "inf"], "--judge-timeout inf; expected a number"),
        (["mmhal", *NOWHERE, "--judge", "u", "--judge-prices", "1", "-2"], "--judge-prices -2.0; expected a number"),
        (["mmhal", *NOWHERE, "--judge", "u", "--judge-retries", "-1"], "--judge-retries -1; expected a number"),
        (["pope-questions", "--objects", "o", "--output", "p", "--images", "0"], "--images 0; expected a number"),
        (
            ["judge-bias", "--preferences", "p", "--images", "i", "--output", "o.json", "--limit", "0"],
            "--limit 0; expected a number",
        ),
    ],
)
def test_refused_before_anything_is_opened(arguments, said, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["eval", *arguments])
    (line,) = capsys.readouterr().err.splitlines()
    assert stopped.value.code == 2
    assert line.startswith(f"vlm-jax eval {arguments[0]}: found {said}")
