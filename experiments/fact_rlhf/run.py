"""Do factual captions help RLHF? The demo's comparison over seeds, and against how much the reward model sees.

    python -m experiments.fact_rlhf.run --out runs/fact_rlhf

Every seed draws its own world, pairs, annotators and training runs; the starting model is the one in the package.
``seeds`` at the demo's resolution give the main table; ``curve_seeds`` at each of ``resolutions`` give the gain from
facts against visual difficulty. Finished parts are kept, so the same command goes on where a stopped one left off.
Settings are the demo's, to be chosen on validation scenes of seed 0 first; here only test scenes are scored.
"""

import dataclasses
from pathlib import Path

import tyro

from experiments.fact_rlhf.readme import write_readme
from experiments.fact_rlhf.why import explain
from experiments.generated import shortened
from vlm_jax.checkpoints.opening import TINY
from vlm_jax.checkpoints.tensor_files import weight_files
from vlm_jax.commands import demo
from vlm_jax.errors import InputError
from vlm_jax.files import files_sha256, read_json, write_json
from vlm_jax.runs.begin import identity
from vlm_jax.versions import versions

_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        out: Folder of the runs.
        seeds: Seeds of the main table.
        curve_seeds: Seeds of the curve.
        resolutions: Pixels a side that the reward models see; the tiny model itself sees 48.
    """

    out: Path = Path("runs/fact_rlhf")
    seeds: tuple[int, ...] = (1, 2, 3, 4, 5)
    curve_seeds: tuple[int, ...] = (1, 2)
    resolutions: tuple[int, ...] = (48, 8, 1)


def run_one(options: Options, seed: int, resolution: int) -> None:
    """One whole comparison; its results file in this folder is what the README is made from."""
    target = results_file(seed, resolution)
    one = demo.Options(out=options.out / target.stem, seed=seed, resolution=resolution)
    made = provenance(one)
    if target.exists():
        if (found := read_json(target)["made"]) != made:
            raise InputError(f"results of {found}", f"of {made}; move them away", file=str(target))
        return
    print(f"seed {seed}, reward models see {resolution} pixels")
    scores = demo.align(one)
    write_json(
        target,
        {
            "seed": seed,
            "resolution": resolution,
            "models": {name: shortened(score) for name, score in scores.items()},
            "ppo": last_metrics(one),
            "why": explain(one),
            "made": made,
            "versions": versions(),
        },
    )


def results_file(seed: int, resolution: int) -> Path:
    return _HERE / "results" / f"seed_{seed}_resolution_{resolution}.json"


def provenance(one: demo.Options) -> dict:
    """What decides a comparison: the demo's settings and the model that it starts from."""
    return {**identity(one)["settings"], "tiny": files_sha256(weight_files(TINY).files)}


def last_metrics(options: demo.Options) -> dict[str, dict]:
    """What PPO ended on: means over the last five rollouts."""
    from vlm_jax.runs.log import read_metrics

    last = {}
    for name in demo.ALIGNED:
        rows = read_metrics(options.out / name / "ppo" / "metrics.jsonl")[-5:]
        last[name] = {key: sum(row[key] for row in rows) / len(rows) for key in rows[0]}
    return last


def main(options: Options) -> None:
    for seed in options.seeds:
        run_one(options, seed, demo.Options().resolution)
    for resolution in options.resolutions:
        for seed in options.curve_seeds:
            run_one(options, seed, resolution)
    write_readme(_HERE)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
