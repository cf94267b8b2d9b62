"""Ask the TPU compiler what fits where: ``python -m tpu.fit`` compiles the package's own steps, keeps a record of each
in tpu/fit.json, and writes the tables of tpu/README.md.

Hours in all. It can be stopped at any time: what is in the file, of the same program and the same compiler, is not
asked again.
"""

import argparse
import hashlib
import multiprocessing
import statistics
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import vlm_jax
from tpu.compiled import compile_step, lower_step, tpu_mesh, versions
from tpu.flops import flops
from tpu.program import Program
from tpu.questions import Cell, Question, cells, next_question
from tpu.table import write_tables
from vlm_jax.files import read_json, write_json
from vlm_jax.planning.chips import topology_named
from vlm_jax.planning.plan import plan
from vlm_jax.planning.steps import step_of

FILE = Path(__file__).with_name("fit.json")
# Of the package, all that a step is made of.
_PARTS = ("*.py", "models/*.py", "generate/*.py", "train/*.py", "parallel/*.py", "planning/steps.py")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so long")
    parser.add_argument("--only", default="", help="cells whose names hold this")
    parser.add_argument("--table", action="store_true", help="compile nothing, write the tables")
    options = parser.parse_args()
    if not options.table:
        sweep(options.only, options.minutes)
    write_tables(read())


def read() -> dict[str, dict[str, Any]]:
    """Records by the names of their questions."""
    return read_json(FILE) if FILE.exists() else {}


def sweep(only: str, minutes: float) -> None:
    """Asks one question after the other, each in a process of its own: what the compiler leaves behind goes with it."""
    begun, records = time.monotonic(), read()
    while left := _open(records, only):
        spent = time.monotonic() - begun
        if spent > 60 * minutes:
            return
        cell = left[0]
        question = next_question(cell, _answers(records), guess(cell))
        each = statistics.fmean(record["seconds"] for record in records.values()) if records else 0
        print(f"{spent / 60:.0f} min; {len(left)} cells, about {each * len(left) / 3600:.1f} h, left", flush=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            record = apart.submit(ask, question, current(), records.get(question.name, {})).result()
        records[question.name] = record
        write_json(FILE, dict(sorted(records.items())))
        print(f"  {question.name}: {'' if record['fits'] else 'no, '}{record['seconds']:.0f} s", flush=True)


def _open(records: Mapping[str, Any], only: str) -> list[Cell]:
    """Cells that something is left to ask of, the most important first."""
    answers = _answers(records)
    asked = [cell for cell in cells() if only in cell.name]
    return [cell for cell in asked if next_question(cell, answers, 1) is not None]


def _answers(records: Mapping[str, Any]) -> dict[str, bool]:
    """Whether what was asked fits, by the names of questions; of today's steps and compiler alone."""
    now = current()
    return {name: record["fits"] for name, record in records.items() if now.items() <= record.items()}


def current() -> dict[str, str]:
    """What decides an answer: the compiler's version, and the text of all that makes up a step."""
    files = (file for part in _PARTS for file in sorted(Path(vlm_jax.__file__).parent.glob(part)))
    return {"versions": versions(), "source": _digest(b"".join(file.read_bytes() for file in files))}


def _digest(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def ask(question: Question, decides: Mapping[str, Any], before: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a question. An older one holds where neither program nor compiler has changed.

    Args:
        question: Of a cell.
        decides: What :func:`current` said when this process began: files may change while it works.
        before: The older record; empty where there is none.
    """
    topology = topology_named(question.cell.topology)
    step = step_of(question.case, tpu_mesh(topology, *question.cell.layout))
    lowered = lower_step(step)
    now = {**decides, "program": _digest(lowered.as_text().encode())}
    if all(before.get(name) == now[name] for name in ("versions", "program")):
        return {**before, **now}
    begun = time.monotonic()
    made = compile_step(step, lowered)
    return now | {
        "fits": made.fits(topology.chip.memory),
        "arguments": made.arguments,
        "temporaries": made.temporaries,
        "outputs": made.outputs,
        "code": made.code,
        "total": made.total,
        "flops": flops(step.traced, question.case.sizes.get("max_new_tokens", 1) - 1),
        "transfers": {} if made.text is None else Program(made.text).bytes_by_kind(),
        "seconds": round(time.monotonic() - begun, 1),
    }


def guess(cell: Cell) -> int:
    """The fewest microbatches with which a cell fits by the analytic plan; its most where it never does."""
    topology = topology_named(cell.topology)
    fitting = (n for n in cell.choices if plan(Question(cell, n).case, topology, cell.layout).fits)
    return next(fitting, cell.choices[-1])


if __name__ == "__main__":
    main()
