"""Ask the TPU compiler what fits where: ``python -m tpu.fit`` compiles the package's own steps, keeps a record of each in
tpu/fit.json, and writes the tables of tpu/README.md.

Hours in all. It can be stopped at any time: what is in the file, of the same program and the same compiler, is not asked
again. ``--minutes`` ends it after so long, ``--table`` only writes the tables.
"""

import argparse
import dataclasses
import hashlib
import multiprocessing
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import vlm_jax
from tpu.compiled import compile_step, lower_step, tpu_mesh, versions
from tpu.flops import flops
from tpu.program import Program
from tpu.questions import Question, cells, next_question
from vlm_jax.files import read_json, write_json
from vlm_jax.planning.chips import topology_named
from vlm_jax.planning.steps import step_of

FILE = Path(__file__).with_name("fit.json")
# Of the package, all that a step is made of.
_ROOMS = (".", "models", "generate", "train", "parallel", "planning")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin nothing new after so long")
    parser.add_argument("--only", default="", help="cells whose names hold this")
    parser.add_argument("--table", action="store_true", help="compile nothing, write the tables")
    options = parser.parse_args()
    if not options.table:
        sweep(options.only, options.minutes)
    from tpu.table import write_tables

    write_tables(read())


def read() -> dict[str, dict[str, Any]]:
    """Records by the names of their questions."""
    return read_json(FILE) if FILE.exists() else {}


def sweep(only: str, minutes: float) -> None:
    """Asks one question after the other, each in a process of its own: the compiler may end it."""
    begun, records, now = time.monotonic(), read(), current()
    while (question := _next(records, only, now)) is not None:
        spent = time.monotonic() - begun
        if spent > 60 * minutes:
            return
        print(f"{spent / 60:.0f} min, {_left(records, only, now)} cells left: {question.name}", flush=True)
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as apart:
            record = apart.submit(ask, question, records.get(question.name, {})).result()
        records[question.name] = record
        write_json(FILE, dict(sorted(records.items())))
        print(f"    {'fits' if record['fits'] else 'does not fit'}, {record['seconds']:.0f} s", flush=True)


def current() -> dict[str, str]:
    """What decides an answer: the compiler's version, and the text of all that makes up a step."""
    files = (file for room in _ROOMS for file in sorted(Path(vlm_jax.__file__).parent.glob(f"{room}/*.py")))
    text = b"".join(file.read_bytes() for file in files)
    return {"versions": versions(), "source": hashlib.sha256(text).hexdigest()}


def ask(question: Question, before: Mapping[str, Any]) -> dict[str, Any]:
    """The record of a question. An older one holds where neither program nor compiler has changed."""
    topology = topology_named(question.cell.topology)
    step = step_of(question.case, tpu_mesh(topology, *question.cell.layout))
    lowered = lower_step(step)
    now = current() | {"program": hashlib.sha256(lowered.as_text().encode()).hexdigest()}
    if all(before.get(name) == now[name] for name in ("versions", "program")):
        return {**before, **now}
    begun = time.monotonic()
    made = compile_step(step, lowered)
    return now | {
        "fits": made.fits,
        "arguments": made.arguments,
        "temporaries": made.temporaries,
        "outputs": made.outputs,
        "flops": flops(step.traced, question.case.sizes.get("max_new_tokens", 1) - 1),
        "transfers": Program(made.text).bytes_by_kind() if made.fits else {},
        "seconds": round(time.monotonic() - begun, 1),
    }


def _next(records: Mapping[str, Any], only: str, now: Mapping[str, str]) -> Question | None:
    return next(_open(records, only, now), None)


def _left(records: Mapping[str, Any], only: str, now: Mapping[str, str]) -> int:
    return sum(1 for _ in _open(records, only, now))


def _open(records: Mapping[str, Any], only: str, now: Mapping[str, str]) -> Iterator[Question]:
    """The next question of every cell that has one."""
    fresh = {name: record["fits"] for name, record in records.items() if now.items() <= record.items()}
    for cell in cells():
        if only in " / ".join(dataclasses.astuple(cell)):
            question = next_question(cell, fresh, cell.choices[-1])
            if question is not None:
                yield question


if __name__ == "__main__":
    main()
