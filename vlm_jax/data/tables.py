"""Tables as text (TSV, CSV) to rows that know where they came from."""

import csv
from collections.abc import Iterator
from pathlib import Path

from vlm_jax.data.rows import Origin, Row
from vlm_jax.errors import InputError
from vlm_jax.files import read_lines

_LARGEST_CELL = 2**31 - 1  # The most that the reader's C long holds everywhere; its default is too small for images.
_LAYOUT = "a table with a header, its cells quoted or free of tabs (commas in .csv)"
# What pandas reads as a missing cell, in any case as LLaVA does for the last two.
_MISSING = set("#N/A,#N/A N/A,#NA,-1.#IND,-1.#QNAN,-NaN,-nan,1.#IND,1.#QNAN,<NA>,N/A,NA,NULL,n/a,null,".split(","))
_MISSING_IN_ANY_CASE = {"nan", "none"}


def iter_table(path: str | Path) -> Iterator[Row]:
    """The rows of a table with a header (UTF-8, byte order mark allowed, LF or CRLF), one held at a time: columns by
    name, all of them text. The first row below the header is row 2, as in a spreadsheet.

    Raises:
        InputError: The file is no such table, a row has more or fewer cells than the header, or there is no row.
    """
    csv.field_size_limit(_LARGEST_CELL)
    file, names, number = str(path), None, 0
    records = csv.reader(read_lines(path), delimiter=delimiter(path))
    try:
        for cells in records:
            number += 1
            if names is None:
                names = cells
                if len(set(names)) < len(names):
                    raise InputError(f"columns {names}", "names that differ", file=file, row=1)
            elif cells and len(cells) != len(names):
                found = f"{len(cells)} cells under {len(names)} columns"
                raise InputError(found, _LAYOUT, file=file, row=number)
            elif cells:
                yield Row(Origin(file, number), dict(zip(names, cells, strict=True)))
    except csv.Error as error:
        raise InputError(f"a table that cannot be read ({error})", _LAYOUT, file=file, row=number + 1) from None
    if number < 2:
        raise InputError("no rows", _LAYOUT, file=file)


def delimiter(path: str | Path) -> str:
    """What stands between the cells of a file of this name."""
    return "," if Path(path).suffix.lower() == ".csv" else "\t"


def is_missing(cell: str) -> bool:
    """Whether a cell stands for nothing, as pandas and LLaVA have it."""
    return cell in _MISSING or cell.lower() in _MISSING_IN_ANY_CASE
