"""The mean over POPE's files of questions, each scored on its own, as papers report it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from vlm_jax.data.rows import iter_rows
from vlm_jax.errors import InputError
from vlm_jax.evals.pope.scorer import Mode, confusion, is_unparsed, tally
from vlm_jax.evals.statistics.tally import Scored, count_empty


@dataclasses.dataclass(frozen=True)
class Setting:
    """The samples of one file of questions, as :func:`score` gave them."""

    file: Path
    rows: Sequence[Mapping[str, Any]]

    def confusion(self) -> tuple[list[str], Float[np.ndarray, "n 6"]]:
        """As :func:`confusion` has it."""
        return confusion(*([row[name] for row in self.rows] for name in ("said", "label", "image")))

    def figures(self, mode: Mode) -> dict[str, float]:
        """What :func:`score` has made of them."""
        units, counts = self.confusion()
        return tally(units, counts, mode=mode).values()

    def questions(self) -> frozenset[tuple[Any, ...]]:
        """What tells it from other files."""
        return frozenset((row["id"], row["image"], row["question"], row["label"]) for row in self.rows)


def read_setting(path: Path) -> Setting:
    """``NAME.samples.jsonl`` beside a result.

    Raises:
        InputError: A row is not one of a sample.
    """
    rows = []
    for row in iter_rows(path):
        texts = {name: row.string(name) for name in ("id", "image", "question", "answer")}
        if row.require("label") not in ("yes", "no") or row.require("said") not in ("yes", "no", None):
            raise row.wrong("a label or what was said that is neither yes nor no", "a sample of POPE")
        rows.append(row.values | texts)
    return Setting(path, rows)


def mean(settings: Mapping[str, Setting], mode: Mode) -> Scored:
    """The mean over several files of questions about the same images.

    Args:
        settings: From :func:`read_setting`, by name.
        mode: Which all of them were scored in.

    Raises:
        InputError: The files are about other images.
    """
    counts = {name: one.confusion() for name, one in settings.items()}
    first, (units, _) = next(iter(counts.items()))
    for name, (images, _) in counts.items():
        if odd := sorted(set(images) ^ set(units)):
            found = f"{len(odd)} images, {odd[0]} for one, that not both have"
            raise InputError(found, f"the images of {first}", file=str(settings[name].file))
    found = tally(units, *(each for _, each in counts.values()), mode=mode)
    rows = [{"file": name, **row} for name, one in settings.items() for row in one.rows]
    return Scored(
        metrics=found.values(),
        per_sample=rows,
        empty=count_empty(row["answer"] for row in rows),
        unparsed=sum(is_unparsed(row["answer"], row["said"]) for row in rows),
        tally=found,
        tables={"file": {name: one.figures(mode) for name, one in settings.items()}},
    )
