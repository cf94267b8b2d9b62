"""Evaluations side by side, for the terminal and for Markdown."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_jax.report.measures import BEST, BRACKETS, Row, label, rows, summary, written, written_interval

__all__ = ["markdown_table", "print_scores", "summary"]

_BETWEEN = len(" │ ")


def print_scores(models: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """A table with one column a model, from what ``evals.scenes.evaluate`` gives for each.

    Rates are per cent. Where a value and its interval do not fit on one line, the interval gets its own; models that do
    not fit beside each other stand in tables below each other.
    """
    console = console or Console()
    shown = rows(models)
    for table in _tables(list(models), shown, console.width):
        console.print(table)
    console.print(caption(len(models)), style="dim", highlight=False)


def caption(models: int) -> str:
    """What brackets and bold figures are; with one model none is bold."""
    return BRACKETS if models < 2 else f"{BRACKETS} {BEST}"


def _tables(names: Sequence[str], shown: Sequence[Row], width: int) -> Iterator[Table]:
    left = width - max(len(label(row.measure)) for row in shown)
    for gap in (" ", "\n"):
        cells = [[_terminal_cell(row, i, gap) for row in shown] for i in range(len(names))]
        widest = max(len(line) for column in cells for cell in column for line in cell.plain.splitlines())
        beside = max(1, left // (widest + _BETWEEN))
        if beside >= len(names):
            break
    for start in range(0, len(names), beside):
        part = range(start, min(start + beside, len(names)))
        table = Table(show_edge=False, pad_edge=False)
        table.add_column("", no_wrap=True)
        for i in part:
            # A name is folded, an interval never.
            room = min(len(names[i]), left // len(part) - _BETWEEN)
            table.add_column(Text(names[i]), justify="right", overflow="fold", width=max(widest, room))
        for place, row in enumerate(shown):
            table.add_row(Text(label(row.measure)), *(cells[i][place] for i in part))
        yield table


def markdown_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The same rows as a Markdown table, what it shows below it, and a newline at the end."""
    names = [name.replace("|", "\\|").replace("\n", " ") for name in models]
    lines = [_markdown_line(["", *names]), "|---|" + "---:|" * len(names)]
    for row in rows(models):
        cells = [_markdown_cell(row, i) for i in range(len(names))]
        lines.append(_markdown_line([label(row.measure).replace("_", "\\_"), *cells]))
    return "\n".join([*lines, "", caption(len(names))]) + "\n"


def _terminal_cell(row: Row, column: int, gap: str) -> Text:
    figure = row.figures[column]
    if figure is None:
        return Text("-", style="dim")
    text = Text(written(row.measure, figure.value), style="bold green" if column == row.best else "")
    if figure.interval is not None:
        text.append(gap + written_interval(row.measure, figure.interval), style="not bold dim default")
    return text


def _markdown_cell(row: Row, column: int) -> str:
    figure = row.figures[column]
    if figure is None:
        return "-"
    value = written(row.measure, figure.value)
    value = f"**{value}**" if column == row.best else value
    return value if figure.interval is None else f"{value} {written_interval(row.measure, figure.interval)}"


def _markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
