"""What a run does on its way beside training: adapters kept, evaluations on held-out rows, the best one so far.

    folder/kept/<step>/    the adapter as it was after that step
    folder/best/           the adapter of the best evaluation, which best.json tells

Both are written when the state of their step is saved: nothing that stands there is worked out again by a run that goes
on, and what a kill kept from being written is made up for from the saved state.
"""

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from vlm_jax.arrays import Params
from vlm_jax.errors import InputError, note
from vlm_jax.files import read_json, replaced_folder

PREFIX = "held_out_"
_BEST_FILE = "best.json"


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """How often what is trained is measured, and how.

    Attributes:
        every: Steps between; the last step is one as well.
        measure: What is trained -> metrics by name; the same on all processes.
        best: The metric that decides which adapter is the best; None for none.
        higher: Whether more of it is better.
        rows: What says which rows it is measured on.
    """

    every: int
    measure: Callable[[Params], Mapping[str, float]]
    best: str | None = None
    higher: bool = False
    rows: str = ""


@dataclasses.dataclass(frozen=True)
class Milestones:
    """What is asked for. ``save`` writes an adapter: what is trained, a new folder, contents of further files."""

    keep_every: int | None = None
    evaluation: Evaluation | None = None
    save: Callable[[Path, Params, Mapping[str, Any]], None] | None = None


class Kept:
    """The adapters that a run keeps in its folder."""

    def __init__(self, folder: Path, asked: Milestones):
        """
        Args:
            folder: Of the run, which nobody else writes into.
            asked: What is to be kept.

        Raises:
            InputError: best.json is broken.
        """
        self._folder, self._asked = folder, asked
        # A kill leaves them behind.
        for left in (*folder.glob(".best.partial-*"), *folder.glob("kept/.*.partial-*")):
            if jax.process_index() == 0:
                shutil.rmtree(left)
        self._best = self._known_best()

    def measures(self, done: int, final: bool) -> bool:
        """Whether it is time to measure after so many steps; ``final`` where these are all."""
        evaluation = self._asked.evaluation
        return evaluation is not None and (final or done % evaluation.every == 0)

    def measured(self, params: Params) -> dict[str, float]:
        """Metrics on held-out rows, by their names in the log."""
        return {f"{PREFIX}{name}": value for name, value in self._asked.evaluation.measure(params).items()}

    def due(self, done: int, final: bool) -> bool:
        """Whether an adapter may have to be written after so many steps, whose state is then saved before."""
        return self._keeps(done) or (self.measures(done, final) and self._asked.evaluation.best is not None)

    def _keeps(self, done: int) -> bool:
        return self._asked.keep_every is not None and done % self._asked.keep_every == 0

    def write(self, done: int, params: Params, metrics: Mapping[str, int | float]) -> None:
        """Keep what is due after ``done`` steps, whose state is saved; of several processes all call it.

        Args:
            done: Steps.
            params: What is trained.
            metrics: The step's line of the log.
        """
        place = self._folder / "kept" / str(done)
        if self._keeps(done) and not place.exists():
            self._asked.save(place, params, {})
        evaluation = self._asked.evaluation
        if evaluation is None or evaluation.best is None:
            return
        value = metrics.get(f"{PREFIX}{evaluation.best}")
        if value is None or not self._better(value):
            return
        told = {"step": done, "metric": f"{PREFIX}{evaluation.best}", "value": value, "rows": evaluation.rows}
        if jax.process_index():
            self._asked.save(self._folder / "best", params, {})
        else:
            with replaced_folder(self._folder / "best") as place:
                self._asked.save(place, params, {_BEST_FILE: told})
        self._best = value

    def _better(self, value: float) -> bool:
        if self._best is None:
            return True
        return value > self._best if self._asked.evaluation.higher else value < self._best

    def _known_best(self) -> float | None:
        """The value of the best so far; None where there is none, or one by another measure."""
        file, evaluation = self._folder / "best" / _BEST_FILE, self._asked.evaluation
        if evaluation is None or evaluation.best is None or not file.exists():
            return None
        told, metric = read_json(file), f"{PREFIX}{evaluation.best}"
        if (told.get("metric"), told.get("rows")) != (metric, evaluation.rows):
            if jax.process_index() == 0:
                note(
                    file.parent,
                    f"was the best by {told.get('metric')}, by another metric or of other rows; left behind",
                )
            return None
        value = told.get("value")
        if not isinstance(value, float):
            raise InputError(f"value {value!r}", "a number", file=str(file))
        return value
