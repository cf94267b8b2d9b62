"""Does the verbosity rate find a taste for length that was planted in a reward model?

    python -m experiments.judge_bias.run --out runs/judge_bias

Every seed draws its own world and pairs (``made`` by rule, or ``sampled`` from the tiny model), labels them by
annotators without and with a taste for length, trains a reward model on each and puts both to
``vlm-jax eval judge-bias`` on pairs that neither was trained on. Finished parts are kept, so the same command goes on
where a stopped one left off. Sampled pairs were tried on seed 0, which is not reported; nothing was changed for it.
"""

import dataclasses
from pathlib import Path

import tyro

from experiments.judge_bias.arms import (
    ARMS,
    HELD_OUT,
    OBJECTS,
    RulePairs,
    SampledPairs,
    Setting,
    prepare,
    reward_options,
)
from experiments.judge_bias.readme import write_readme
from vlm_jax.checkpoints.opening import source_of
from vlm_jax.commands import reward
from vlm_jax.commands.eval import judge_bias
from vlm_jax.errors import InputError
from vlm_jax.files import read_json, write_json

_HERE = Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        out: Folder of the runs.
        made, sampled: Seeds of each kind of pairs; every one its own world, pairs and reward models.
    """

    out: Path = Path("runs/judge_bias")
    made: tuple[int, ...] = (1, 2, 3)
    sampled: tuple[int, ...] = (1, 2, 3)


def run_one(options: Options, setting: Setting) -> None:
    """Both arms of a seed; the results file in this folder is what the README is made from."""
    target = _HERE / "results" / f"{setting.name}_seed_{setting.seed}.json"
    made = {**dataclasses.asdict(setting), "tiny": source_of("tiny").sha256}
    if target.exists():
        if (found := read_json(target)["made"]) != made:
            raise InputError(f"results of {found}", f"of {made}; move them away", file=str(target))
        return
    out = options.out / target.stem
    world = prepare(setting, out)
    for arm in ARMS:
        reward.run(reward_options(setting, out, arm))
    measured = out / "bias.json"
    judge_bias.run(
        judge_bias.Options(
            preferences=world / HELD_OUT,
            images=world / "images",
            objects=world / OBJECTS,
            output=measured,
            reward=out / "length" / "adapter",
            against=out / "clean" / "adapter",
            checkpoint="tiny",
        )
    )
    result = read_json(measured)
    kept = {key: result[key] for key in ("n", "comparison", "baselines", "remarks", "versions")}
    agreement = {arm: read_json(out / arm / "results.json")["held_out_accuracy"] for arm in ARMS}
    write_json(target, {"seed": setting.seed, "made": made, "agreement_with_own_annotators": agreement, **kept})


def main(options: Options) -> None:
    for setting in (
        *(RulePairs(seed=seed) for seed in options.made),
        *(SampledPairs(seed=seed) for seed in options.sampled),
    ):
        run_one(options, setting)
    write_readme(_HERE)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
