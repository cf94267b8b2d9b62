"""The tables of tpu/README.md, from the records of tpu/fit.json."""

import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments.generated import replace_between
from tpu.questions import KINDS, PRESETS, SLICES, STEPS, Cell, Question, answer_of, cells
from vlm_jax.planning.chips import CHIPS, topology_named
from vlm_jax.planning.costs import Cost, roofline
from vlm_jax.planning.layouts import abstract_mesh, default_layout, split_rows_of
from vlm_jax.planning.plan import Plan, plan
from vlm_jax.planning.steps import Case, bytes_on_a_chip, sizes_of, step_of

README = Path(__file__).with_name("README.md")
_GIB = 2**30
_NOT_COMPILED = "·"
# How far the plan's bytes should be from the compiler's at most.
FACTOR = 1.5
Records = Mapping[str, Mapping[str, Any]]


def write_tables(records: Records) -> None:
    """Between the markers of the README."""
    for name, text in tables(records).items():
        replace_between(README, name, text)


def tables(records: Records) -> dict[str, str]:
    """Each by the name of its markers."""
    return {
        "asked": asked(records),
        "overview": overview(records),
        "answers": _table(_ANSWERS, answers(records)),
        "transfers": _table(_TRANSFERS, transfers(records)),
        "two bases": _table(_TWO_BASES, two_bases(records)),
        "comparison": comparison(records),
        "chips": _table(_CHIPS, chips()),
    }


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    lines = [head, [":--" if number < 2 else "--:" for number in range(len(head))], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _gib(size: float) -> str:
    return f"{size / _GIB:.2f}"


def _answered(records: Records) -> Iterator[tuple[Question, bool]]:
    """Of every cell that was asked, the question that says most, and whether it is the last word."""
    fits = {name: record["fits"] for name, record in records.items()}
    for cell in cells():
        if (found := answer_of(cell, fits)) is not None:
            yield found


def asked(records: Records) -> str:
    """How much of the table is known, and from which compiler."""
    found = list(_answered(records))
    known = sum(1 for _, last in found if last)
    versions = {tuple(sorted(record["versions"].items())) for record in records.values()}
    said = "; ".join(", ".join(f"{name} {number}" for name, number in one) for one in sorted(versions))
    hours = sum(record["seconds"] for record in records.values()) / 3600
    return (
        f"{len(records)} programs were compiled in {hours:.1f} h ({said}). Of {len(cells())} cells {len(found)} have "
        f"been asked, and of {known} of those the largest microbatch is known; {len(cells()) - len(found)} are not "
        "compiled."
    )


def overview(records: Records) -> str:
    """A line a preset, step and base, a column a slice."""
    found = {question.cell: _short(records, question, last) for question, last in _answered(records)}
    head = ("step", "preset", "base", *SLICES)
    lines = [
        (step, preset, kind, *(found.get(Cell(preset, step, kind, topology), _NOT_COMPILED) for topology in SLICES))
        for step in STEPS
        for preset in PRESETS
        for kind in KINDS
        if kind == "bfloat16" or step != "sft full"
    ]
    return _table(head, lines)


def _short(records: Records, question: Question, last: bool) -> str:
    """``16 rows``: so many at a time; with a sign where more, or fewer, may still fit."""
    if records[question.name]["fits"]:
        return f"{'' if last else '≥ '}{question.rows}"
    return "no" if last else f"< {question.rows}"


_ANSWERS = (
    *("step", "preset", "base", "remat", "slice", "mesh d x f x t", "rows at a time", "fits"),
    *("arguments", "temporaries", "limit", "plan: arguments", "plan: temporaries", "plan / compiler"),
    *("TFLOP a chip", "s at best", "bound"),
)


def answers(records: Records) -> Iterator[tuple[object, ...]]:
    """A line a cell that was asked; memory in GiB a chip."""
    for question, _ in _answered(records):
        record, ours = records[question.name], planned(question)
        cell, topology = question.cell, topology_named(question.cell.topology)
        seconds, bound = at_best(question, record, ours)
        yield (
            *(cell.step, cell.preset, cell.kind, cell.remat, cell.topology),
            *(" x ".join(map(str, cell.layout)), question.rows, "yes" if record["fits"] else "no"),
            *(_gib(record["arguments"]), _gib(record["temporaries"]), _gib(topology.chip.memory)),
            *(_gib(sum(needs.values())) for needs in (ours.arguments, ours.temporaries)),
            f"{ours.total / record['total']:.2f}",
            *(f"{record['flops'] / topology.count / 1e12:.1f}", f"{seconds:.3g}", bound),
        )


def planned(question: Question) -> Plan:
    """What ``vlm-jax plan`` says of it."""
    return plan(question.case, topology_named(question.cell.topology), question.cell.layout)


def at_best(question: Question, record: Mapping[str, Any], ours: Plan) -> tuple[float, str]:
    """Seconds of the compiled step at the chip's peaks and what takes them: its own operations and transfers; of its
    memory the plan's bytes, since a program's text does not say what is read."""
    topology = topology_named(question.cell.topology)
    network = sum(size for _, size in record["transfers"].values()) if record["transfers"] else ours.cost.network
    return roofline([Cost(record["flops"] / topology.count, ours.cost.traffic, network)], topology.chip)


_TRANSFERS = ("step", "preset", "base", "slice", "rows at a time", "transfers, GB that reach a chip in a step")


def transfers(records: Records) -> Iterator[tuple[object, ...]]:
    """Of every program that fits on more than one chip, by kind: bytes, and how many."""
    for question, _ in _answered(records):
        kinds = records[question.name]["transfers"]
        if kinds:
            said = ", ".join(f"{kind} {size / 1e9:,.1f} ({count:,})" for kind, (count, size) in sorted(kinds.items()))
            cell = question.cell
            yield cell.step, cell.preset, cell.kind, cell.topology, question.rows, said


_POLICY, _JUDGE = "llava-rlhf-7b", "llava-rlhf-13b"
_PIECES = ((_POLICY, "rollout", _JUDGE), (_POLICY, "ppo", _JUDGE), (_JUDGE, "score", _POLICY))
_TWO_BASES = ("slice", "limit", *(f"{step}, {preset}" for preset, step, _ in _PIECES))


def two_bases(records: Records) -> Iterator[tuple[object, ...]]:
    """A policy of 7B at 224 pixels and a reward model of 13B at 336: each piece beside the other's arguments."""
    fits = {name: record["fits"] for name, record in records.items()}
    for topology in SLICES:
        limit, said = topology_named(topology).chip.memory, []
        for preset, step, other in _PIECES:
            found = answer_of(Cell(preset, step, "bfloat16", topology), fits)
            said.append("not compiled" if found is None else _beside(records, found[0], other, limit))
        yield topology, _gib(limit), *said


def _beside(records: Records, question: Question, other: str, limit: int) -> str:
    record = records[question.name]
    own = record["total"]
    beside = _resting(other, question.cell.topology, "score" if other == _JUDGE else "ppo")
    fitting = record["fits"] and own + beside <= limit
    return f"{_gib(own)} + {_gib(beside)}, {question.rows} rows: {'fits' if fitting else 'no'}"


def _resting(preset: str, topology: str, step: str) -> int:
    """Bytes of a base and its roles on one chip, while something else runs."""
    layout = default_layout(topology_named(topology).count, split_rows_of(sizes_of(preset, step)))
    base, roles, *_ = step_of(Case(preset, step), abstract_mesh(layout)).arguments
    return bytes_on_a_chip((base, roles))


def comparison(records: Records) -> str:
    """How far the analytic plan is from the compiler, over everything that was compiled."""
    ratios = ratios_of(records)
    if not ratios:
        return "Nothing has been compiled."
    low, middle, high = min(ratios.values()), statistics.median(ratios.values()), max(ratios.values())
    said = (
        f"Over {len(ratios)} programs the plan's bytes are {low:.2f} to {high:.2f} times the compiler's, {middle:.2f} "
        f"in the middle. Further off than a factor of {FACTOR}: "
    )
    return said + ("; ".join(f"{name} ({ratio:.2f})" for name, ratio in far_off(ratios).items()) or "none") + "."


def far_off(ratios: Mapping[str, float]) -> dict[str, float]:
    """Those beyond :data:`FACTOR`, either way."""
    return {name: ratio for name, ratio in sorted(ratios.items()) if not 1 / FACTOR <= ratio <= FACTOR}


def ratios_of(records: Records) -> dict[str, float]:
    """Of every question: the plan's bytes a chip to the compiler's."""
    questions = {Question(cell, number).name: Question(cell, number) for cell in cells() for number in cell.choices}
    return {
        name: planned(questions[name]).total / record["total"] for name, record in records.items() if name in questions
    }


_CHIPS = ("chip", "source", "TFLOP/s bf16", "GiB for a program", "memory GB/s", "network GB/s out")


def chips() -> Iterator[tuple[object, ...]]:
    for chip in CHIPS.values():
        figures = (chip.flops / 1e12, chip.memory / _GIB, chip.bandwidth / 1e9, chip.network / 1e9)
        yield chip.name, chip.source, *(f"{figure:g}" for figure in figures)
