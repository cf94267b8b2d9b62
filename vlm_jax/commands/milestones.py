"""What the verbs that train take and do for what they look at and keep on the way (``runs.milestones``)."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vlm_jax.commands.training import Training
from vlm_jax.errors import InputError, note

if TYPE_CHECKING:
    from vlm_jax.arrays import Params
    from vlm_jax.data.checks import AnyRecord
    from vlm_jax.runs.held_out import Measure
    from vlm_jax.runs.milestones import Milestones

# Of metrics on held-out rows that decide which adapter is the best, those that are better when larger.
_HIGHER = ("accuracy", "reward", "score")


def check(options: Training, *, adapter: bool = True, own: int = 0) -> None:
    """Whether the options of evaluations go together.

    Args:
        options: Of a verb that has ``best`` as well.
        adapter: Whether an adapter is trained.
        own: Rows that the verb holds out of its own file.

    Raises:
        InputError: One of them is of no use without another, or without an adapter.
    """
    if not adapter and options.keep_every is not None:
        raise InputError("--keep-every with --trainable full", "--trainable lora: adapters are kept, not checkpoints")
    if not adapter and options.best is not None:
        raise InputError("--best with --trainable full", "--trainable lora: adapters are kept, not checkpoints")
    if options.evaluate_every is None:
        if options.held_out_file is not None:
            raise InputError("--held-out-file without --evaluate-every", "both, or none")
        if options.best is not None:
            raise InputError("--best without --evaluate-every", "both, or none")
    elif options.held_out_file is None and not own:
        raise InputError("--evaluate-every without rows to evaluate on", "--held-out-file with some")


def held_out_rows(
    options: Training, data: Path, read: "Callable[[Path], Sequence[AnyRecord]]"
) -> "Sequence[AnyRecord]":
    """Rows of the held-out file, none where there is no file; a line where it is the one that is trained on.

    Args:
        options: Which file.
        data: The file that is trained on.
        read: Of a file.

    Raises:
        InputError: A row is broken; names it.
    """
    if options.held_out_file is None:
        return []
    import jax

    rows = read(options.held_out_file)
    # Of several processes one speaks.
    if os.path.samefile(options.held_out_file, data) and jax.process_index() == 0:
        note(options.held_out_file, "held-out rows are those that are trained on")
    return rows


def milestones_of(
    options: Training,
    measure: "Callable[[], Measure]",
    save: "Callable[[Path, Params, Mapping[str, Any]], None]",
    rows: str | None = None,
) -> "Milestones":
    """What the options ask for.

    Args:
        options: Of a verb that has ``best`` as well.
        measure: Makes the measure on held-out rows.
        save: Writes what is trained as an adapter.
        rows: Which rows are held out, where it is not the file of them.
    """
    from vlm_jax.checkpoints.hashes import digest
    from vlm_jax.runs.milestones import Evaluation, Milestones

    if options.evaluate_every is None:
        return Milestones(options.keep_every, None, save)
    rows = rows if options.held_out_file is None else str(digest(options.held_out_file))
    evaluation = Evaluation(options.evaluate_every, measure(), options.best, options.best in _HIGHER, rows)
    return Milestones(options.keep_every, evaluation, save)
