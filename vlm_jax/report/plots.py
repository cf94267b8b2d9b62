"""Small plots as inline SVG: text takes the page's font and theme, and no file is needed beside the page.

Colours are the classes ``s0`` to ``s5`` of the page's style, so that one model keeps its colour everywhere.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

from markupsafe import Markup

from vlm_jax.report.measures import Figure

SERIES = 6

_WIDTH, _HEIGHT = 340.0, 215.0
_TOP, _BOTTOM, _LEFT = 30.0, 38.0, 46.0
_CHARACTER, _LINE = 7.4, 14.0
_LONGEST_NAME = 16
# Fewer points than this are drawn as they are; more are also smoothed.
_FEW = 20


@dataclasses.dataclass(frozen=True)
class Panel:
    """One metric over steps; ``include`` are values that the y axis must show."""

    metric: str
    title: str
    unit: str
    include: tuple[float, ...] = ()
    format: Literal["number", "percent"] = "number"


PPO_PANELS = (
    Panel("score", "Reward model's score", "mean of a step's answers"),
    Panel("reward", "Reward with penalties", "mean of a step's answers"),
    Panel("kl", "KL from the starting model", "nats an answer", (0.0,)),
    Panel("length", "Length", "tokens an answer"),
    Panel("ended", "Answers that end", "% of a step's answers", (1.0,), "percent"),
    Panel("sampled_chair_i", "Hallucination, sampled descriptions", "CHAIR_i, %", (0.0,), "percent"),
    Panel("sampled_recall", "Recall, sampled descriptions", "% of objects there", (), "percent"),
)
REWARD_PANELS = (
    Panel("loss", "Loss", "nats a pair", (math.log(2),)),
    Panel("accuracy", "Accuracy", "% of a step's pairs", (0.5, 1.0), "percent"),
    Panel("margin", "Margin", "score, chosen - rejected", (0.0,)),
)

Rows = Sequence[Mapping[str, int | float]]
Points = list[tuple[float, float]]


def panels(kinds: Sequence[Panel], curves: Mapping[str, Rows], colours: Mapping[str, int]) -> list[Markup]:
    """A plot of every metric that at least one run has logged."""
    drawn = []
    for kind in kinds:
        series = {name: points(rows, kind.metric) for name, rows in curves.items()}
        series = {name: line for name, line in series.items() if line}
        if series:
            drawn.append(lines(kind, series, colours))
    return drawn


def points(rows: Rows, metric: str) -> Points:
    """(step, value) of the rows that have the metric and a finite value."""
    return [(float(row["step"]), float(row[metric])) for row in rows if metric in row and math.isfinite(row[metric])]


def window(count: int) -> int:
    """How many neighbouring points a smooth line averages."""
    return 1 if count < _FEW else 2 * (count // 30) + 3


def smooth(line: Points) -> Points:
    """Centred running mean, shorter at the ends."""
    half = window(len(line)) // 2
    values = [value for _, value in line]
    parts = [values[max(0, i - half) : i + half + 1] for i in range(len(line))]
    return [(step, sum(part) / len(part)) for (step, _), part in zip(line, parts, strict=True)]


def ticks(low: float, high: float, wanted: int = 4) -> list[float]:
    """Round values from just below ``low`` to just above ``high``, about ``wanted`` steps apart."""
    if high - low <= 1e-9 * max(abs(low), abs(high), 1e-9):
        pad = abs(low) / 2 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / wanted
    size = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * size for factor in (1, 2, 2.5, 5, 10) if factor * size >= raw * 0.999)
    first, last = math.floor(low / step + 1e-6), math.ceil(high / step - 1e-6)
    # 0.1 + 0.2 is no label.
    digits = max(0, 2 - math.floor(math.log10(step)))
    return [round(i * step, digits) for i in range(first, last + 1)]


def lines(kind: Panel, series: Mapping[str, Points], colours: Mapping[str, int]) -> Markup:
    """The series over steps; noisy ones thin with their running mean thick, each named at its end."""
    right = 14 + _CHARACTER * max(len(_short(name)) for name in series)
    steps = [step for line in series.values() for step, _ in line]
    values = [value for line in series.values() for _, value in line]
    marks = ticks(min([*values, *kind.include]), max([*values, *kind.include]))
    across = _Axis(min(steps), max(steps) if max(steps) > min(steps) else min(steps) + 1, _LEFT, _WIDTH - right)
    up = _Axis(marks[0], marks[-1], _HEIGHT - _BOTTOM, _TOP)
    parts = [_title(kind), *_y_axis(marks, up, kind, _WIDTH - right), *_x_axis(across)]
    ends = {}
    for name, line in series.items():
        even = smooth(line)
        if window(len(line)) > 1:
            parts.append(_path(line, across, up, f"thin s{colours[name]}"))
        parts.append(_path(even, across, up, f"thick s{colours[name]}"))
        x, y = across(even[-1][0]), up(even[-1][1])
        parts.append(Markup('<circle class="dot s{}" cx="{:.1f}" cy="{:.1f}" r="3"/>').format(colours[name], x, y))
        ends[name] = y
    for name, y in _apart(ends, _TOP + 4, _HEIGHT - _BOTTOM).items():
        parts.append(_text(_WIDTH - right + 8, y + 4, _short(name), f"name s{colours[name]}"))
    return _svg(parts, f"{kind.title} ({kind.unit}) over steps: {', '.join(series)}", _HEIGHT)


def intervals(title: str, figures: Mapping[str, Figure], colours: Mapping[str, int]) -> Markup:
    """One dot a model with its 95 % interval, on one scale in per cent."""
    left = 12 + _CHARACTER * max(len(_short(name)) for name in figures)
    ends = [100 * v for figure in figures.values() for v in (figure.value, *(figure.interval or ()))]
    marks = ticks(min(ends), max(ends))
    row = 26.0
    height = 30 + row * len(figures) + 24
    across = _Axis(marks[0], marks[-1], left, _WIDTH - 16)
    parts = [_text(0.0, 14.0, title, "title")]
    for value in marks:
        x, base = across(value), height - 22
        parts.append(_line(x, 26.0, x, base, "grid"))
        parts.append(_text(x, base + 15, f"{value:g} %", "tick middle"))
    for i, (name, figure) in enumerate(figures.items()):
        y, series = 30 + row * i + row / 2, f"s{colours[name]}"
        parts.append(_text(left - 10, y + 4, _short(name), f"name end {series}"))
        if figure.interval is not None:
            low, high = (across(100 * value) for value in figure.interval)
            parts.append(_line(low, y, high, y, f"whisker {series}"))
        parts.append(
            Markup('<circle class="dot {}" cx="{:.1f}" cy="{:.1f}" r="5"/>').format(
                series, across(100 * figure.value), y
            )
        )
    return _svg(parts, f"{title}: " + ", ".join(f"{n} {100 * f.value:.1f} %" for n, f in figures.items()), height)


@dataclasses.dataclass(frozen=True)
class _Axis:
    """Values to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def _title(kind: Panel) -> Markup:
    return Markup('<text x="0" y="14" class="title">{} <tspan class="unit">{}</tspan></text>').format(
        kind.title, kind.unit
    )


def _y_axis(marks: Sequence[float], up: _Axis, kind: Panel, right: float) -> list[Markup]:
    parts = []
    for value in marks:
        shown = f"{100 * value:g}" if kind.format == "percent" else f"{value:g}"
        parts.append(_line(_LEFT, up(value), right, up(value), "grid"))
        parts.append(_text(_LEFT - 7, up(value) + 4, shown, "tick end"))
    return parts


def _x_axis(across: _Axis) -> list[Markup]:
    base = _HEIGHT - _BOTTOM
    shown = [value for value in ticks(across.low, across.high, 3) if across.low <= value <= across.high]
    labels = [_text(across(value), base + 16, f"{value:g}", "tick middle") for value in shown]
    return [*labels, _text((across.start + across.end) / 2, base + 32, "step", "tick middle")]


def _apart(ends: Mapping[str, float], top: float, bottom: float) -> dict[str, float]:
    """The heights moved just so far that no two names touch, in their order."""
    placed: dict[str, float] = {}
    lowest = top - _LINE
    for name in sorted(ends, key=lambda name: ends[name]):
        placed[name] = lowest = max(ends[name], lowest + _LINE)
    ceiling = bottom + _LINE
    for name in reversed(placed):
        placed[name] = ceiling = min(placed[name], ceiling - _LINE)
    return placed


def _short(name: str) -> str:
    return name if len(name) <= _LONGEST_NAME else name[: _LONGEST_NAME - 1] + "…"


def _path(line: Points, across: _Axis, up: _Axis, classes: str) -> Markup:
    corners = " ".join(f"{across(step):.1f},{up(value):.1f}" for step, value in line)
    return Markup('<polyline class="{}" points="{}"/>').format(classes, corners)


def _line(x0: float, y0: float, x1: float, y1: float, classes: str) -> Markup:
    return Markup('<line class="{}" x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>').format(classes, x0, y0, x1, y1)


def _text(x: float, y: float, words: str, classes: str) -> Markup:
    return Markup('<text class="{}" x="{:.1f}" y="{:.1f}">{}</text>').format(classes, x, y, words)


def _svg(parts: Sequence[Markup], description: str, height: float) -> Markup:
    return Markup('<svg viewBox="0 0 {:g} {:g}" role="img" aria-label="{}">{}</svg>').format(
        _WIDTH, height, description, Markup("").join(parts)
    )
