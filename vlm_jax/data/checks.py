"""All rows of a run before its first step: a row that cannot be used must not end it after hours."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from vlm_jax.data.assemble import placed
from vlm_jax.data.images import load_image
from vlm_jax.data.sources import Record
from vlm_jax.errors import InputError, TooLongError

AnyRecord = TypeVar("AnyRecord", bound=Record)
Progress = Callable[[int], Any]

# Decoding releases the interpreter's lock, and a disk answers several at a time.
_THREADS = 8


def fitting(
    records: Sequence[AnyRecord], encode: Callable[[AnyRecord], Any], drop_long: bool, progress: Progress
) -> list[AnyRecord]:
    """The records whose texts fit.

    Args:
        records: All of a file.
        encode: Raises where a record's text does not fit.
        drop_long: Leave those out that are too long (as LLaVA-RLHF does), in place of refusing the file.
        progress: Told the number of records so far.

    Raises:
        TooLongError: A text does not fit, and none is to be left out; names its row.
        InputError: None fits.
    """
    kept = []
    for number, record in enumerate(records, 1):
        try:
            encode(record)
        except TooLongError:
            if not drop_long:
                raise
        else:
            kept.append(record)
        progress(number)
    if records and not kept:
        raise InputError(f"{len(records)} rows that are all too long", "some that fit, or greater lengths")
    return kept


def check_images(records: Sequence[Record], progress: Progress) -> None:
    """Decode every picture once.

    Args:
        records: Whose pictures.
        progress: Told the number of different pictures so far.

    Raises:
        InputError: One cannot be decoded; names the first row that has it.
    """
    first: dict[Any, Record] = {}
    for record in records:
        if record.image is not None:
            first.setdefault(record.image, record)

    def check(record: Record) -> None:
        with placed(record):
            load_image(record.image)

    with ThreadPoolExecutor(_THREADS) as pool:
        # Told in the file's order, so that the error is the first one.
        for number, _ in enumerate(pool.map(check, first.values()), 1):
            progress(number)
