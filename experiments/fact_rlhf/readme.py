"""The tables and the picture of this folder's README, from its results files."""

import json
from collections.abc import Callable
from pathlib import Path

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np

from experiments.claims import record
from experiments.generated import replace_between
from experiments.seeds import half_width
from vlm_jax.commands.demo import Options
from vlm_jax.report.tables import summary

MODELS = {"sft": "start (SFT)", "rlhf": "RLHF", "fact_rlhf": "Fact-RLHF"}
_MEASURES = {
    "chair_i": "CHAIR_i, %",
    "chair_s": "CHAIR_s, %",
    "recall": "recall, %",
    "pope_f1": "POPE F1, %",
    "pope_accuracy": "POPE accuracy, %",
    "mmhal_score": "MMHal score, 0 to 6",
    "mmhal_hallucination_rate": "MMHal hallucination, %",
    "mean_length": "words a description",
    "reward_accuracy": "reward accuracy, %",
}


def load(folder: Path) -> list[dict]:
    """All results, each with ``summaries`` of its three models."""
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted((folder / "results").glob("seed_*.json"))]
    return [one | {"summaries": {name: summary(one["models"][name]) for name in MODELS}} for one in found]


def mean_and_interval(values: list[float], digits: int = 2, sign: bool = False) -> str:
    """Mean over seeds and half the width of its 95 % interval (Student's t), which a single seed does not have."""
    mean, half = f"{np.mean(values):{'+' if sign else ''}.{digits}f}", half_width(values)
    return mean if half is None else f"{mean} ± {half:.{digits}f}"


def main_table(results: list[dict]) -> str:
    """Mean and interval of every measure over the seeds at the demo's resolution."""
    lines = ["| | " + " | ".join(MODELS.values()) + " |", "|---|" + "---:|" * len(MODELS)]
    for measure, label in _MEASURES.items():
        factor = 100 if label.endswith("%") else 1
        cells = [mean_and_interval([factor * one["summaries"][name][measure] for one in results]) for name in MODELS]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def seed_table(results: list[dict]) -> str:
    """CHAIR_i and recall of every seed, the figures that the goals are stated in."""
    lines = [
        "| seed | CHAIR_i start | RLHF | Fact-RLHF | Fact-RLHF against start | recall change, points |"
        " Fact-RLHF better than RLHF |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for one in results:
        sft, plain, fact = (one["summaries"][name] for name in MODELS)
        change = 100 * (fact["chair_i"] / sft["chair_i"] - 1)
        recall = 100 * (fact["recall"] - sft["recall"])
        rates = " | ".join(f"{100 * each['chair_i']:.2f} %" for each in (sft, plain, fact))
        better = "yes" if fact["chair_i"] < plain["chair_i"] else "no"
        lines.append(f"| {one['seed']} | {rates} | {change:+.0f} % | {recall:+.1f} | {better} |")
    return "\n".join(lines)


def difference_table(results: list[dict]) -> str:
    """What changes between the arms of a seed, which share world, pairs and draws: means and intervals of the pairs."""
    pairs = {"Fact-RLHF - start": ("fact_rlhf", "sft"), "RLHF - start": ("rlhf", "sft")}
    pairs |= {"Fact-RLHF - RLHF": ("fact_rlhf", "rlhf")}
    lines = ["| points | CHAIR_i | CHAIR_i, relative % | recall | lower CHAIR_i in |", "|---|---:|---:|---:|---:|"]
    for label, (after, before) in pairs.items():
        both = [(one["summaries"][after], one["summaries"][before]) for one in results]
        chair = [100 * (a["chair_i"] - b["chair_i"]) for a, b in both]
        relative = [100 * (a["chair_i"] / b["chair_i"] - 1) for a, b in both]
        recall = [100 * (a["recall"] - b["recall"]) for a, b in both]
        cells = [mean_and_interval(chair, 2, True), mean_and_interval(relative, 0, True)]
        cells += [mean_and_interval(recall, 2, True), f"{sum(c < 0 for c in chair)} of {len(chair)} seeds"]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def ppo_table(results: list[dict]) -> str:
    """What each PPO run ended on, over seeds."""
    lines = ["| last five rollouts | RLHF | Fact-RLHF |", "|---|---:|---:|"]
    labels = {"score": "reward model's score", "kl": "KL to the start, nats an answer", "length": "tokens an answer"}
    for measure, label in (labels | {"entropy": "entropy, nats a token"}).items():
        cells = [mean_and_interval([one["ppo"][name][measure] for one in results]) for name in ("rlhf", "fact_rlhf")]
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def why_table(results: list[dict]) -> str:
    """Which hallucinations each model makes, per 100 descriptions, and how well its reward model tells them."""
    lines = ["| | " + " | ".join(MODELS.values()) + " |", "|---|" + "---:|" * len(MODELS)]
    labels = {
        "habits": "absent kind whose partner is there",
        "by_chance": "so many of all absent kinds by chance",
        "misses": "other absent kind",
    }
    for cause, label in labels.items():
        cells = [mean_and_interval([one["why"]["causes"][name][cause] for one in results], 1) for name in MODELS]
        lines.append(f"| {label}, per 100 descriptions | " + " | ".join(cells) + " |")
    told = {"accuracy": "truer answer ranked higher, %", "equal_accuracy": "the same, of answers with as many kinds, %"}
    for measure, label in told.items():
        cells = [mean_and_interval(truth_told(results, name, measure), 1) for name in ("rlhf", "fact_rlhf")]
        lines.append(f"| reward model: {label} | | {' | '.join(cells)} |")
    counting = mean_and_interval(truth_told(results, "counting"), 1)
    lines.append(f"| blind rule, fewer kinds named: truer answer ranked higher, % | {counting} | | |")
    return "\n".join(lines)


def truth_told(results: list[dict], name: str, measure: str = "accuracy") -> list[float]:
    return [100 * one["why"]["truth_accuracy"][name][measure] for one in results]


def _by_resolution(results: list[dict], value: Callable[[dict], float]) -> dict[int, list[float]]:
    resolutions = sorted({one["resolution"] for one in results})
    return {r: [value(one) for one in results if one["resolution"] == r] for r in resolutions}


def common_seeds(results: list[dict]) -> list[dict]:
    """The results of those seeds that were run at every resolution: only they can be compared along the curve."""
    groups = _by_resolution(results, lambda one: one["seed"])
    seeds = set.intersection(*(set(seeds) for seeds in groups.values()))
    return [one for one in results if one["seed"] in seeds]


def curve_table(results: list[dict]) -> str:
    """The gain from facts against what the reward models see."""
    lines = [
        "| pixels seen | seeds | truth told without facts, % | with facts | with as many kinds: without | with |"
        " CHAIR_i start | RLHF | Fact-RLHF | gain from facts, points |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for resolution, group in _by_resolution(results, lambda one: one).items():
        told = [truth_told(group, name, m) for m in ("accuracy", "equal_accuracy") for name in ("rlhf", "fact_rlhf")]
        chair = [[100 * one["summaries"][name]["chair_i"] for one in group] for name in MODELS]
        cells = [f"{np.mean(values):.1f}" for values in (*told, *chair)]
        arms = [(one["summaries"]["rlhf"], one["summaries"]["fact_rlhf"]) for one in group]
        gains = [100 * (plain["chair_i"] - fact["chair_i"]) for plain, fact in arms]
        each = ", ".join(f"{gain:+.2f}" for gain in gains)
        lines.append(f"| {resolution} | {len(group)} | " + " | ".join(cells) + f" | {np.mean(gains):+.2f} ({each}) |")
    return "\n".join(lines)


def draw_curve(results: list[dict], path: Path) -> None:
    """CHAIR_i of the three models against the reward model's view; points are seeds, lines their means."""
    figure, axes = plt.subplots(figsize=(6.4, 3.6))
    colours = {"sft": "#777777", "rlhf": "#d55e00", "fact_rlhf": "#0072b2"}
    for name, label in MODELS.items():
        groups = _by_resolution(results, lambda one, name=name: 100 * one["summaries"][name]["chair_i"])
        places = range(len(groups))
        for place, values in zip(places, groups.values(), strict=True):
            axes.plot([place] * len(values), values, ".", color=colours[name], alpha=0.4)
        means = [np.mean(values) for values in groups.values()]
        axes.plot(places, means, color=colours[name], label=label)
    axes.set_xticks(range(len(groups)), [str(r) for r in groups])
    axes.set_xlabel("pixels a side that the reward models see (the policy sees 48)")
    axes.set_ylabel("CHAIR_i on held-out scenes, %")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    # Beside the axes: the lines may lie on each other.
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    matplotlib.rcParams["svg.hashsalt"] = "fact_rlhf"
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def write_readme(folder: Path) -> None:
    """Fill in the generated parts of README.md, draw curve.svg and record the claims."""
    results = load(folder)
    main = [one for one in results if one["resolution"] == Options().resolution]
    readme = folder / "README.md"
    replace_between(readme, "main", main_table(main))
    replace_between(readme, "seeds", seed_table(main))
    replace_between(readme, "ppo", ppo_table(main))
    replace_between(readme, "differences", difference_table(main))
    replace_between(readme, "why", why_table(main))
    replace_between(readme, "curve", curve_table(common_seeds(results)))
    draw_curve(common_seeds(results), folder / "curve.svg")
    record(folder)


if __name__ == "__main__":
    write_readme(Path(__file__).parent)
