"""POPE's usual figure: the mean over its random, popular and adversarial files, each scored on its own.

  vlm-jax eval pope-mean --results random.json popular.json adversarial.json --output pope.json

Results are those of `vlm-jax eval pope`, with their samples beside them. Intervals draw images with their questions in
all files, so the files have to be about the same images.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_jax.evals.tally import Scored


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options:
    """What the command takes.

    Attributes:
        results: Of the files, one each.
        output: JSON file for the mean.
        against: Of another model on the same files: both are compared.
    """

    results: tuple[Path, ...]
    output: Path
    against: tuple[Path, ...] = ()


def run(options: Options) -> None:
    from vlm_jax.commands.eval.files import check_written, making
    from vlm_jax.errors import InputError
    from vlm_jax.evals.pope import MODES, mean
    from vlm_jax.evals.result import result_of, write_result
    from vlm_jax.files import read_json
    from vlm_jax.report.benchmark import print_result

    check_written(options)
    modes = [read_json(path).get("mode") for path in (*options.results, *options.against)]
    if not options.results or len(set(modes)) != 1 or modes[0] not in MODES:
        raise InputError(f"results in modes {', '.join(map(str, modes)) or 'none'}", "POPE results in one mode")

    def score(paths: Sequence[Path]) -> "Scored":
        return mean({path.stem: path.with_suffix(".samples.jsonl") for path in paths}, modes[0])

    scored, other = score(options.results), score(options.against) if options.against else None
    result = result_of("POPE, mean of files", modes[0], scored, making(options), other)
    write_result(options.output, result, scored.per_sample)
    print_result(result)
    print(options.output)
