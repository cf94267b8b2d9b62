"""The tables of this folder's README, from its results files."""

from pathlib import Path

import numpy as np

from experiments.claims import record
from experiments.generated import replace_between
from experiments.seeds import half_width
from vlm_jax.files import read_json

_P = 0.001
# What is shown seed by seed, by kind of pairs.
_BY_SEED = {"made": ("rr_verbosity",), "sampled": ("rr_verbosity", "toward_verbosity", "accuracy_verbosity")}


def load(folder: Path, name: str) -> list[dict]:
    return [read_json(path) for path in sorted((folder / "results").glob(f"{name}_seed_*.json"))]


def seed_table(results: list[dict], measure: str) -> str:
    """One figure of both arms in every seed, with the paired difference's bootstrap interval and p-value."""
    lines = [
        "| seed | pairs | clean | taste for length | difference | 95 % | p |",
        "|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in results:
        found = one["comparison"][measure]
        low, high = found["interval"]
        p = f"< {_P}" if found["p_value"] < _P else f"{found['p_value']:.3f}"
        rates = f"{found['before']:.3f} | {found['after']:.3f} | {found['difference']:+.3f}"
        lines.append(f"| {one['seed']} | {one['n']} | {rates} | {low:+.3f} to {high:+.3f} | {p} |")
    return "\n".join(lines)


def bias_table(results: list[dict]) -> str:
    """RR of both arms and of counting words, mean over seeds; the paired difference with its interval over seeds."""
    lines = [
        "| | clean RR | toward, away | taste for length RR | toward, away | RR difference | 95 % | seeds with p < 0.05 "
        "| counting words RR |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    names = [name.removeprefix("rr_") for name in results[0]["comparison"] if name.startswith("rr_")]
    for name in names:
        arms = [
            f"{_mean(results, f'rr_{name}', arm):.3f} | {_moves(results, name, arm)}" for arm in ("before", "after")
        ]
        differences = [one["comparison"][f"rr_{name}"]["difference"] for one in results]
        apart = sum(one["comparison"][f"rr_{name}"]["p_value"] < 0.05 for one in results)
        words = np.mean([one["baselines"]["the longer answer"][f"rr_{name}"] for one in results])
        cells = [name.replace("_", " "), *arms, f"{np.mean(differences):+.3f}", _over_seeds(differences)]
        lines.append("| " + " | ".join([*cells, f"{apart} of {len(results)}", f"{words:.3f}"]) + " |")
    return "\n".join(lines)


def other_table(results: list[dict]) -> str:
    """What RR has to be read beside, mean over seeds."""
    lines = ["| mean over seeds | clean | taste for length |", "|---|---:|---:|"]
    labels = {
        "cr": "CR",
        "accuracy": "accuracy by the truth",
        "accuracy_verbosity": "the same, worse answer lengthened",
    }
    for measure, label in labels.items():
        lines.append(f"| {label} | {_mean(results, measure, 'before'):.3f} | {_mean(results, measure, 'after'):.3f} |")
    own = [np.mean([one["agreement_with_own_annotators"][arm] for one in results]) for arm in ("clean", "length")]
    lines.append(f"| agreement with its own annotators | {own[0]:.3f} | {own[1]:.3f} |")
    return "\n".join(lines)


def _mean(results: list[dict], measure: str, arm: str) -> float:
    return float(np.mean([one["comparison"][measure][arm] for one in results]))


def _moves(results: list[dict], name: str, arm: str) -> str:
    if f"toward_{name}" not in results[0]["comparison"]:
        return ""
    return f"{_mean(results, f'toward_{name}', arm):.3f}, {_mean(results, f'away_{name}', arm):.3f}"


def _over_seeds(values: list[float]) -> str:
    """95 % interval of the mean over seeds (Student's t); a single seed has none, nor have equal values a width."""
    if (half := half_width(values)) is None:
        return ""
    return f"{np.mean(values) - half:+.3f} to {np.mean(values) + half:+.3f}"


def write_readme(folder: Path) -> None:
    """Fill in the generated parts of README.md and record the claims."""
    readme = folder / "README.md"
    for name in _BY_SEED:
        if results := load(folder, name):
            for measure in _BY_SEED[name]:
                replace_between(readme, f"{name}_{measure}", seed_table(results, measure))
            replace_between(readme, f"{name}_biases", bias_table(results))
            replace_between(readme, f"{name}_beside", other_table(results))
    record(folder)


if __name__ == "__main__":
    write_readme(Path(__file__).parent)
