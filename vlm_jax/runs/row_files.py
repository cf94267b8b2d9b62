"""A file of JSON lines that a model makes batch by batch, to be gone on with after a kill.

While it is written the rows stand in ``NAME.partial``, in the order in which they come; at the end they are put in
their own order under the file's own name. The record of the making stands beside it, with ``.run.json`` for an ending.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_jax.files import locked, read_json_lines, write_json_lines
from vlm_jax.runs.begin import begin
from vlm_jax.runs.progress import Meter

Row = dict[str, Any]
Skip = Callable[[Sequence[int]], bool]


def make_once(
    target: Path,
    options: Any,
    checkpoint: str,
    make: Callable[[], None],
    *,
    without_effect: Sequence[str] = (),
    **inputs: Callable[[], Any],
) -> None:
    """Let ``make`` write ``target``, or go on with it, unless this very file is there already.

    Args:
        target: The file.
        options: A verb's options, a dataclass.
        checkpoint: The frozen weights, as ``--checkpoint`` names them.
        make: Calls :func:`write_rows`.
        without_effect: Options that change no row beside rounding: other ones go on with the file.
        inputs: What the file depends on beside the options; looked up while nobody else is at the file.

    Raises:
        InputError: Something else was written into ``target``, another process is at it, or an input is broken.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    lock, record = target.with_name(f".{target.name}.lock"), target.with_suffix(".run.json")
    with locked(lock, target):
        try:
            looked = {name: look() for name, look in inputs.items()}
            begun = begin(options, target, record, checkpoint, without_effect=without_effect, **looked)
            # A run that never wrote a row is not in the way of one with other settings.
            if not _started(target):
                record.unlink(missing_ok=True)
            if not begun.finished():
                begun.claim()
                make()
        finally:
            if not _started(target):
                record.unlink(missing_ok=True)
            lock.unlink(missing_ok=True)


def write_rows(
    target: Path,
    key: str,
    names: Sequence[int | str],
    batches: Callable[[Skip], Iterable[Mapping[int, Row]]],
    title: str,
    join: Callable[[list[Row]], Iterable[Row]] = lambda rows: rows,
) -> None:
    """Make every row once and write them to ``target``; those in ``NAME.partial`` already are kept.

    Args:
        target: The file.
        key: What tells rows apart.
        names: The value under ``key`` of each row, in the rows' order.
        batches: Told what may be left out (given places of rows, whether all are there), yields rows by place.
        title: Of the line of progress.
        join: All rows, in order, to those that ``target`` ends with.
    """
    partial = _partial(target)
    done = {row[key]: row for row in read_json_lines(partial)} if partial.exists() else {}
    # Without the line that a kill cut off, and without the other half of a batch that it cut.
    write_json_lines(partial, done.values())

    def finished(places: Sequence[int]) -> bool:
        return all(names[place] in done for place in places)

    with partial.open("a", encoding="utf-8") as file, Meter(title, len(names), done=len(done)) as meter:
        for made in batches(finished):
            rows = made.values()
            done |= {row[key]: row for row in rows}
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            meter.update(len(done))
    write_json_lines(target, join([done[name] for name in names]))
    partial.unlink()


def _started(target: Path) -> bool:
    """Whether a row is written; if not, nothing is left of the file."""
    partial = _partial(target)
    if target.exists() or (partial.exists() and partial.stat().st_size):
        return True
    partial.unlink(missing_ok=True)
    return False


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")
