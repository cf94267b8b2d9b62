"""Evaluations side by side, for the terminal and for Markdown."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vlm_jax.report.measures import Row, label, rows, summary, written, written_interval

__all__ = ["markdown_table", "print_scores", "summary"]

# Up to this many columns, a value and its interval fit on one line of a 100-column terminal.
_WIDE_MODELS = 3


def print_scores(models: Mapping[str, Mapping[str, Any]], console: Console | None = None) -> None:
    """A table with one column a model, from what ``evals.scenes.evaluate`` gives for each.

    Rates are per cent and brackets are 95 % intervals. The best value of a row is bold if there is more than one model.
    """
    table = Table(show_edge=False, pad_edge=False)
    table.add_column("", no_wrap=True)
    for name in models:
        table.add_column(Text(name), justify="right", overflow="fold")
    gap = " " if len(models) <= _WIDE_MODELS else "\n"
    for row in rows(models):
        table.add_row(Text(label(row.measure)), *(_terminal_cell(row, i, gap) for i in range(len(models))))
    (console or Console()).print(table)


def markdown_table(models: Mapping[str, Mapping[str, Any]]) -> str:
    """The same rows as a Markdown table with a newline at its end; the best values are bold."""
    names = [name.replace("|", "\\|").replace("\n", " ") for name in models]
    lines = [_markdown_line(["", *names]), "|---|" + "---:|" * len(names)]
    for row in rows(models):
        cells = [_markdown_cell(row, i) for i in range(len(names))]
        lines.append(_markdown_line([label(row.measure).replace("_", "\\_"), *cells]))
    return "\n".join(lines) + "\n"


def _terminal_cell(row: Row, column: int, gap: str) -> Text:
    figure = row.figures[column]
    if figure is None:
        return Text("-", style="dim")
    text = Text(written(row.measure, figure.value), style="bold green" if column in row.best else "")
    if figure.interval is not None:
        text.append(gap + written_interval(row.measure, figure.interval), style="not bold dim default")
    return text


def _markdown_cell(row: Row, column: int) -> str:
    figure = row.figures[column]
    if figure is None:
        return "-"
    value = written(row.measure, figure.value)
    value = f"**{value}**" if column in row.best else value
    return value if figure.interval is None else f"{value} {written_interval(row.measure, figure.interval)}"


def _markdown_line(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
