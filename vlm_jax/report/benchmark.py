"""A benchmark's result for the terminal."""

import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

_TINY_P = 0.001
_PIPE_WIDTH, _UNBOUNDED = 200, 10_000


def print_result(result: Mapping[str, Any], console: Console | None = None) -> None:
    """Metrics with their intervals, baselines beside them, tables, and the comparison with another model."""
    # Not the 80 columns that a pipe is taken for: names would be cut.
    console = console or Console(width=None if sys.stdout.isatty() else _PIPE_WIDTH)
    unparsed = f", {result['unparsed']} without anything to read" if result["unparsed"] else ""
    console.print(
        f"{result['benchmark']}, mode {result['mode']}, {result['n']} samples{unparsed}", highlight=False, markup=False
    )
    # First, since some of them say that the figures say nothing.
    for remark in result["remarks"]:
        console.print(f"Note: {remark}.", highlight=False, markup=False)
    if result["metrics"]:
        console.print(_fitting(console, lambda under: _metrics(result, under)))
    for title, rows in result["tables"].items():
        if rows:
            console.print()
            console.print(_table(title, rows, result["decimals"]))
    if "comparison" in result:
        console.print()
        console.print(_fitting(console, lambda under: _comparison(result["comparison"], under)))


def _fitting(console: Console, make: Callable[[bool], Table]) -> Table:
    """A table whose intervals have a column of their own, or stand under their figures where that is too wide."""
    wide = make(False)
    natural = Measurement.get(console, console.options.update(max_width=_UNBOUNDED), wide).maximum
    return wide if natural <= console.width else make(True)


def _metrics(result: Mapping[str, Any], under: bool) -> Table:
    table, decimals = _with_intervals(under, ["", ""], result["baselines"]), result["decimals"]
    for name, value in result["metrics"].items():
        interval, digits = result["intervals"].get(name, ()), decimals.get(name)
        constant = (written(base.get(name), digits) for base in result["baselines"].values())
        ends = " to ".join(written(end, digits) for end in interval)
        _add(table, name, *_figure(written(value, digits), ends, under), *constant)
    return table


def _table(title: str, rows: Mapping[str, Mapping[str, Any]], decimals: Mapping[str, int]) -> Table:
    columns = list(dict.fromkeys(column for row in rows.values() for column in row))
    table = _empty(title, *columns)
    for name, row in rows.items():
        _add(table, name, *(written(row.get(column), decimals.get(column)) for column in columns))
    return table


def _comparison(comparison: Mapping[str, Mapping[str, Any]], under: bool) -> Table:
    table = _with_intervals(under, ["", "against", "answers", "difference"], ["p"])
    for name, row in comparison.items():
        low, high = row["interval"]
        found = _figure(f"{row['difference']:+.4f}", f"{low:+.4f} to {high:+.4f}", under)
        _add(table, name, written(row["before"]), written(row["after"]), *found, p_value(row["p_value"]))
    return table


def _with_intervals(under: bool, before: Iterable[str], after: Iterable[str]) -> Table:
    """The last column of ``before`` holds figures; their intervals follow, or are in it and leave the name to give
    way."""
    *names, figures = before
    if not under:
        return _empty(*names, figures, "95 %", *after)
    table = _empty(*names, f"{figures}\n95 %".strip(), *after)
    table.columns[0].no_wrap, table.columns[0].overflow = False, "fold"
    table.columns[len(names)].no_wrap = True
    return table


def _figure(value: str, interval: str, under: bool) -> tuple[str, ...]:
    return (f"{value}\n{interval}".strip(),) if under else (value, interval)


def _add(table: Table, *cells: str) -> None:
    """A row as it stands: names of categories may have brackets, which would be taken for colours."""
    table.add_row(*map(Text, cells))


def _empty(*columns: str) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for place, column in enumerate(columns):
        table.add_column(Text(column), justify="right" if place else "left", no_wrap=not place)
    return table


def written(value: float | int | str | None, decimals: int | None = None) -> str:
    """As many decimals, four where none are said; counts and words as they are; nothing for None."""
    if value is None:
        return ""
    return f"{value:.{4 if decimals is None else decimals}f}" if isinstance(value, float) else str(value)


def p_value(value: float) -> str:
    """Three decimals, or that it is smaller."""
    return f"< {_TINY_P}" if value < _TINY_P else f"{value:.3f}"
