"""The table and the learning curves of this folder's README, from its results."""

import json
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt

from experiments.claims import record
from experiments.generated import replace_between
from vlm_jax.report.tables import markdown_table

# Stage, metrics to draw, and what the axis says.
_PANELS = (
    ("vision", ("content_accuracy", "colour_accuracy", "size_accuracy", "matched"), "share right"),
    ("describe", ("loss",), "nats a token"),
    ("sft", ("loss",), "nats a token"),
)


def draw_curves(metrics: dict[str, list[dict]], path: Path) -> None:
    """One panel a stage."""
    matplotlib.rcParams["svg.hashsalt"] = "scenes_base"
    figure, all_axes = plt.subplots(1, len(_PANELS), figsize=(10, 3))
    for axes, (stage, names, unit) in zip(all_axes, _PANELS, strict=True):
        for name in names:
            axes.plot([row["step"] for row in metrics[stage]], [row[name] for row in metrics[stage]], label=name, lw=1)
        axes.set_title(stage)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.spines[["top", "right"]].set_visible(False)
        if len(names) > 1:
            axes.legend(frameon=False, fontsize=7)
    figure.tight_layout()
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write_readme(folder: Path) -> None:
    """Fill in README.md, draw curves.svg and record the claims."""
    results = json.loads((folder / "results" / "results.json").read_text(encoding="utf-8"))
    metrics = json.loads((folder / "results" / "curves.json").read_text(encoding="utf-8"))
    minutes = {stage: f"{seconds / 60:.0f}" for stage, seconds in results["seconds"].items()}
    lines = [
        markdown_table(results["scores"]),
        f"The checkpoint takes {results['megabytes']:.1f} MB. Minutes from the first to the last file of each stage, "
        f"on 2 cores with other work beside: {', '.join(f'{stage} {value}' for stage, value in minutes.items())}.",
    ]
    replace_between(folder / "README.md", "scores", "\n".join(lines))
    draw_curves(metrics, folder / "curves.svg")
    record(folder)


if __name__ == "__main__":
    write_readme(Path(__file__).parent)
