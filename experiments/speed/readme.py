"""The tables of this folder's README, from its results file."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from experiments.claims import record
from experiments.generated import replace_between
from experiments.speed import gpu_readme
from experiments.speed.cases import TITLES
from vlm_jax.files import read_json

# Axis of a slope -> a result's key, and what one unit of it is called.
_AXES = {"rows": ("rows", "row"), "length": ("length", "position"), "vocabulary": ("vocabulary", "1,000 ids")}
_AXES |= {"rollouts": ("rows", "rollout")}


def load(folder: Path, table: str) -> dict[str, dict[str, Any]]:
    """Results of the comparisons that a table shows, by name."""
    runs = read_json(folder / "results" / "cpu.json")["runs"]
    return {name: one for name, one in runs.items() if one["table"] == table}


def title(one: Mapping[str, Any]) -> str:
    batch = f", {one['rows']} rows" if one["workload"] == "greedy" else ""
    return f"{TITLES[one['workload']]}{batch}"


def median(one: Mapping[str, Any], side: str) -> float:
    return float(np.median(one[side]["seconds"]))


def ratio(one: Mapping[str, Any]) -> float:
    """How many times as fast as torch we are."""
    return median(one, "torch") / median(one, "ours")


def main_table(runs: Iterable[Mapping[str, Any]]) -> str:
    lines = [
        "| shape | workload | ours s | torch s | torch / ours | compile s | first step s | peak GiB | of steps, GiB |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in runs:
        ours, torch = one["ours"], one["torch"]
        cells = [one["model"], title(one), _spread(ours), _spread(torch), f"{ratio(one):.2f}"]
        cells += [f"{ours['compile_seconds']:.1f}"]
        cells += [f"{ours['first_step_seconds']:.1f}, {torch['first_step_seconds']:.2f}"]
        cells += [f"{ours['gib'][name]:.2f}, {torch['gib'][name]:.2f}" for name in ("peak", "steps")]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _spread(side: Mapping[str, Any]) -> str:
    """Median, lowest and highest."""
    low, middle, high = (f"{value:#.3g}".rstrip(".") for value in np.percentile(side["seconds"], (0, 50, 100)))
    return f"{middle} ({low} to {high})"


def caches_table(runs: Iterable[Mapping[str, Any]]) -> str:
    """Which of its caches torch did better with."""
    lines = ["| shape | workload | dynamic cache s | static cache s |", "|---|---|---:|---:|"]
    for one in runs:
        tried = one["torch"]["warm_up_seconds"]
        if len(tried) > 1:
            cells = [f"{min(tried[name]):#.3g}".rstrip(".") for name in ("dynamic cache", "static cache")]
            lines.append(f"| {one['model']} | {title(one)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def compiled_table(runs: Iterable[Mapping[str, Any]]) -> str:
    lines = [
        "| workload | ours s | torch.compile s | torch / ours | first step s, ours, torch |",
        "|---|---:|---:|---:|---:|",
    ]
    for one in runs:
        firsts = ", ".join(f"{one[side]['first_step_seconds']:.0f}" for side in ("ours", "torch"))
        cells = [title(one), _spread(one["ours"]), _spread(one["torch"]), f"{ratio(one):.2f}", firsts]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def slopes_table(runs: Iterable[Mapping[str, Any]]) -> str:
    """Medians by size, and what one more of it takes: the slope of a line through them (least squares)."""
    lines = ["| workload | along | sizes | ours ms | torch ms | ours ms more | torch ms more |"]
    lines.append("|---|---|---|---:|---:|---|---|")
    for axis, (key, unit) in _AXES.items():
        rows = [one for one in runs if one["axis"] == axis]
        if len(rows) < 2:
            continue
        sizes = [one[key] for one in rows]
        times = {side: [1e3 * median(one, side) for one in rows] for side in ("ours", "torch")}
        cells = [TITLES[rows[0]["workload"]], axis, ", ".join(f"{size:,}" for size in sizes)]
        cells += [", ".join(f"{value:.0f}" for value in times[side]) for side in times]
        scale = 1000 if axis == "vocabulary" else 1
        cells += [f"{scale * np.polyfit(sizes, times[side], 1)[0]:.2f} a {unit}" for side in times]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def write_readme(folder: Path) -> None:
    """Fill in the generated parts of README.md and record the claims."""
    main = load(folder, "main").values()
    tables = {
        "cpu": main_table(main),
        "caches": caches_table(main),
        "compiled": compiled_table(load(folder, "compiled").values()),
        "gpu": gpu_readme.table(gpu_readme.results(folder)),
        "slopes": slopes_table(load(folder, "slopes").values()),
    }
    for name, text in tables.items():
        replace_between(folder / "README.md", name, text)
    record(folder)


if __name__ == "__main__":
    write_readme(Path(__file__).parent)
