"""Our steps and torch's in turn on two cores: seconds, memory, and that both compute the same.

    python -m experiments.speed.cpu

Finished comparisons are kept in results/cpu.json, so that the same command goes on where a stopped one left off. The
machine has to be quiet. Needs the extra ``test`` (torch, peft) and Linux.
"""

import dataclasses
import os
import platform
import re
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tyro

from experiments.speed.cases import CORES, TITLES, Case, compiled_cases, main_cases, ours, slope_cases, theirs
from experiments.speed.shapes import SHAPES
from experiments.speed.timing import alternate, differences, others_share, seconds_of
from vlm_jax.errors import InputError, did_you_mean
from vlm_jax.files import read_json, write_json
from vlm_jax.versions import versions

_HERE = Path(__file__).parent
# Largest difference of what both sides find in their first step, relative where figures are above 1; greedy tokens are
# equal. A PPO iteration ends four updates after the first.
LIMITS = {"sft": 1e-5, "lora": 1e-5, "reward": 1e-5, "greedy": 0.0, "ppo": 1e-4}


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        models: Shapes to compare on.
        workloads: What to compare.
        repetitions: Of each side in the comparisons.
        warm_ups: Steps of each side before, the first aside.
        slope_repetitions: Of each side for slopes and for torch.compile; 0 leaves those out.
        again: Compare also what is in the results already, and replace that.
    """

    models: tuple[str, ...] = tuple(SHAPES)
    workloads: tuple[str, ...] = tuple(TITLES)
    repetitions: int = 7
    warm_ups: int = 2
    slope_repetitions: int = 3
    again: bool = False


def two_cores() -> None:
    """This process and its children stay on them, with as many threads of torch.

    Raises:
        InputError: There are fewer.
    """
    mine = sorted(os.sched_getaffinity(0))[:CORES]
    if len(mine) < CORES:
        raise InputError(f"{len(mine)} core", f"{CORES}")
    os.sched_setaffinity(0, mine)
    # Read when torch and jax are imported.
    os.environ |= {"OMP_NUM_THREADS": str(CORES), "JAX_PLATFORMS": "cpu"}


def compare(case: Case, folder: Path, repetitions: int, warm_ups: int) -> dict[str, Any]:
    """Both sides of a case in turn, after their first steps have been found to agree.

    Raises:
        ValueError: They have not.
    """
    import torch

    from experiments.speed.torch_side import write_weights

    torch.set_num_threads(CORES)
    if not case.weights_in(folder).exists():
        write_weights(case.shape, case.weights_in(folder))
    mine = ours(case, folder)
    compile_seconds, first = seconds_of(mine.compile), {}
    first_seconds = {"ours": compile_seconds + seconds_of(lambda: first.update(mine.step(None)))}
    variants, found = {name: theirs(case, folder, name) for name in case.variants}, {}
    for name, work in variants.items():
        first_seconds[name] = seconds_of(lambda name=name, work=work: found.update({name: work.step(first)}))
    for name in variants:
        found[name] = _agreed(case, differences(first, found[name]))
    tried = alternate({"ours": mine, **variants}, warm_ups)
    fastest = min(variants, key=lambda name: min(tried[name]))
    with others_share() as others:
        seconds = alternate({"ours": mine, "torch": variants[fastest]}, repetitions)
    return {
        "table": case.table,
        "axis": case.axis,
        "model": case.model,
        "workload": case.workload,
        "rows": case.shape.rows,
        "length": case.shape.length,
        "vocabulary": case.shape.config.language.vocab_size,
        "differences": found[fastest],
        "others_share": others[0],
        "ours": {
            "seconds": seconds["ours"],
            "compile_seconds": compile_seconds,
            "first_step_seconds": first_seconds["ours"],
        },
        "torch": {
            "variant": fastest,
            "seconds": seconds["torch"],
            "first_step_seconds": first_seconds[fastest],
            "warm_up_seconds": {name: tried[name] for name in variants},
        },
    }


def _agreed(case: Case, found: dict[str, float]) -> dict[str, float]:
    limit = LIMITS[case.workload]
    if not found or not all(difference <= limit for difference in found.values()):
        raise ValueError(f"{case.name}: both sides differ by {found}, more than {limit}")
    return found


def with_memory(case: Case, folder: Path, found: dict[str, Any]) -> dict[str, Any]:
    """Peaks of both sides, each in a process of its own."""
    from experiments.speed.memory import peak_memory

    for side in ("ours", "torch"):
        found[side]["gib"] = peak_memory(case, folder, side, found["torch"]["variant"])
    return found


def checked(options: Options) -> Options:
    """Raises:
    InputError: A name is unknown, or a number too small.
    """
    for asked, known, what in ((options.models, SHAPES, "models"), (options.workloads, TITLES, "workloads")):
        for name in asked:
            if name not in known:
                raise InputError(f"--{what} {name}{did_you_mean(name, known)}", f"some of {', '.join(known)}")
    if options.repetitions < 1 or options.warm_ups < 1 or options.slope_repetitions < 0:
        raise InputError("no repetition or no warm-up", "at least one of each")
    return options


def run(options: Options, cases: Sequence[Case], results: Path) -> None:
    """Every case that is not among the results yet; the file is written after each."""
    kept = read_json(results)["runs"] if results.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for case in cases:
            if case.name in kept and not options.again:
                print(f"{case.name} is there; --again compares anew")
                continue
            main = case.table == "main"
            repetitions = options.repetitions if main else options.slope_repetitions
            found = compare(case, Path(folder), repetitions, options.warm_ups)
            kept[case.name] = with_memory(case, Path(folder), found) if main else found
            print(case.name, {side: min(found[side]["seconds"]) for side in ("ours", "torch")}, flush=True)
            write_json(results, {"runs": kept, "machine": machine(), "versions": packages()})


def machine() -> dict[str, Any]:
    model = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    return {"cores": CORES, "processor": model[1] if model else platform.machine()}


def packages() -> dict[str, str]:
    return versions() | {name: version(name) for name in ("jaxlib", "torch", "peft")}


def main(options: Options) -> None:
    checked(options)
    two_cores()
    from experiments.speed.readme import write_readme

    cases = main_cases(options.models, options.workloads)
    if options.slope_repetitions:
        cases += [*compiled_cases(), *slope_cases()]
    run(options, cases, _HERE / "results" / "cpu.json")
    write_readme(_HERE)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
