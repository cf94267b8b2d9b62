"""What is compared: workloads of two shapes, and how their times grow with batch, length, vocabulary and rollouts."""

import dataclasses
import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

from experiments.speed.shapes import SHAPES, Shape
from experiments.speed.work import Work

Side = Literal["ours", "torch"]
Table = Literal["main", "compiled", "slopes"]

CORES = 2
# Batch sizes of decoding; other workloads have the shape's own.
GREEDY = (1, 8, 32)
# What each workload is called in tables.
TITLES = {
    "sft": "SFT step, all language weights",
    "lora": "SFT step, LoRA r64",
    "reward": "reward model's step, LoRA r64",
    "greedy": "64 greedy tokens",
    "ppo": "PPO iteration, four adapters",
}
# Ways in which torch can do a workload, each by the options of its function; the fastest one is compared.
_CACHES = {"dynamic cache": {"cache": "dynamic"}, "static cache": {"cache": "static"}}
VARIANTS: dict[str, dict[str, dict]] = {
    "sft": {"eager": {}},
    "lora": {"eager": {}},
    "reward": {"eager": {}},
    "greedy": _CACHES,
    "ppo": _CACHES,
}
# Takes a minute or two to compile, so it is a comparison of its own.
_COMPILED = {"torch.compile": {"compiled": True}}
COMPILED = ("sft", "lora")
# Axis -> workload and its sizes, all of the tiny shape.
SLOPES: dict[str, tuple[str, tuple[int, ...]]] = {
    "rows": ("sft", (2, 8, 32)),
    "length": ("sft", (113, 226, 452)),
    "vocabulary": ("sft", (1024, 8192, 32064)),
    "rollouts": ("ppo", (4, 16, 64)),
}


class Case(NamedTuple):
    """One comparison.

    Attributes:
        name: Of its results.
        model: The shape's name.
        workload: A key of ``TITLES``.
        shape: Model and batch.
        variants: Of torch's side, with the options of each.
        table: Where its results are shown.
        axis: What the shape is made larger along, for a slope.
    """

    name: str
    model: str
    workload: str
    shape: Shape
    variants: dict[str, dict]
    table: Table
    axis: str | None = None

    def weights_in(self, folder: Path) -> Path:
        """Where its weights lie; cases of one model share them."""
        return folder / f"{self.model}-{self.shape.config.language.vocab_size}"


def main_cases(models: tuple[str, ...], workloads: tuple[str, ...]) -> list[Case]:
    """Every workload on every shape."""
    found = []
    for model in models:
        for workload in workloads:
            for rows in GREEDY if workload == "greedy" else (SHAPES[model].rows,):
                name = f"{model} {workload}" + (f" {rows}" if workload == "greedy" else "")
                shape = dataclasses.replace(SHAPES[model], rows=rows)
                found.append(Case(name, model, workload, shape, VARIANTS[workload], "main"))
    return found


def compiled_cases() -> list[Case]:
    """Training steps of the tiny shape against torch.compile."""
    tiny = SHAPES["tiny"]
    return [Case(f"tiny {workload} compiled", "tiny", workload, tiny, _COMPILED, "compiled") for workload in COMPILED]


def slope_cases() -> list[Case]:
    """The tiny shape, larger along one axis at a time."""
    return [_slope_case(axis, workload, size) for axis, (workload, sizes) in SLOPES.items() for size in sizes]


def _slope_case(axis: str, workload: str, size: int) -> Case:
    name, shape = f"tiny {workload}, {axis} {size}", _sized(SHAPES["tiny"], axis, size)
    return Case(name, "tiny", workload, shape, VARIANTS[workload], "slopes", axis)


def _sized(shape: Shape, axis: str, size: int) -> Shape:
    if axis == "vocabulary":
        language = dataclasses.replace(shape.config.language, vocab_size=size)
        return dataclasses.replace(shape, config=dataclasses.replace(shape.config, language=language))
    return dataclasses.replace(shape, **{"length" if axis == "length" else "rows": size})


def ours(case: Case, folder: Path) -> Work:
    """Our side of a case, weights loaded."""
    return importlib.import_module("experiments.speed.ours").WORKLOADS[case.workload](
        case.shape, case.weights_in(folder)
    )


def theirs(case: Case, folder: Path, variant: str) -> Work:
    """Torch's side of a case in one of its variants, weights loaded."""
    module = "torch_ppo" if case.workload == "ppo" else "torch_side"
    make: Callable[..., Work] = getattr(importlib.import_module(f"experiments.speed.{module}"), case.workload)
    return make(case.shape, case.weights_in(folder), **case.variants[variant])
