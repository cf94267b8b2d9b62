"""POPE's usual figure: the mean over its random, popular and adversarial files, each scored on its own.

  vlm-jax eval pope-mean --results random.json popular.json adversarial.json --output pope.json

Results are those of `vlm-jax eval pope`, with their samples beside them. Intervals draw images with their questions in
all files, so the files have to be about the same images. Those of another model (--against) may come in any order.
"""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from vlm_jax.evals.pope.mean import Setting
    from vlm_jax.evals.pope.scorer import Mode


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
    from vlm_jax.evals.pope.mean import mean
    from vlm_jax.evals.result import result_of, write_result
    from vlm_jax.report.benchmark import print_result

    check_written(options)
    mode = _mode((*options.results, *options.against))
    settings = _settings(options.results, mode)
    scored, other = mean(settings, mode), None
    if options.against:
        other = mean(_paired(settings, _settings(options.against, mode), options.against), mode)
    result = result_of("POPE, mean of files", mode, scored, making(options), other)
    write_result(options.output, result, scored.per_sample)
    print_result(result)
    print(options.output)


def _mode(results: Sequence[Path]) -> "Mode":
    from vlm_jax.errors import InputError
    from vlm_jax.evals.pope.scorer import MODES
    from vlm_jax.files import read_json

    modes = [read_json(path).get("mode") for path in results]
    if len(set(modes)) != 1 or modes[0] not in MODES:
        raise InputError(f"results in modes {', '.join(map(str, modes)) or 'none'}", "POPE results in one mode")
    return modes[0]


def _settings(results: Sequence[Path], mode: "Mode") -> "dict[str, Setting]":
    """Samples by name of the result, which they have to belong to."""
    from vlm_jax.errors import InputError
    from vlm_jax.evals.pope.mean import read_setting
    from vlm_jax.files import read_json

    if len({os.path.realpath(path) for path in results}) < len(results):
        raise InputError("a result for the second time", "one of each file of questions")
    found = {}
    for path in results:
        samples = path.with_suffix(".samples.jsonl")
        found[str(path)] = read_setting(samples)
        figures = found[str(path)].figures(mode)
        if any(abs(read_json(path)["metrics"].get(name, -1) - figure) > 1e-9 for name, figure in figures.items()):
            raise InputError("samples of another result", f"those that {path} was made with", file=str(samples))
    return found


def _paired(
    settings: "dict[str, Setting]", others: "dict[str, Setting]", against: Sequence[Path]
) -> "dict[str, Setting]":
    """The other model's, in the order of these by their questions."""
    from vlm_jax.errors import InputError

    by_questions = {one.questions(): (name, one) for name, one in others.items()}
    wanted = {one.questions() for one in settings.values()}
    if by_questions.keys() != wanted or len(others) != len(settings):
        found = f"--against {', '.join(map(str, against))} with other questions"
        raise InputError(found, "a result of the other model for each file of questions")
    return dict(by_questions[one.questions()] for one in settings.values())
