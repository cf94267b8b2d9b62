"""Tables (TSV, CSV, the first sheet of an .xlsx workbook) to rows that know where they came from."""

import csv
import zipfile
from collections.abc import Iterator
from pathlib import Path

from vlm_jax.data.rows import Origin, Row
from vlm_jax.errors import InputError
from vlm_jax.files import read_lines

_LARGEST_CELL = 2**31 - 1  # The most that the reader's C long holds everywhere; its default is too small for images.
_LAYOUT = "a table with a header, its cells quoted or free of tabs (commas in .csv)"


def is_table(path: str | Path) -> bool:
    """Whether a file is a table by its name."""
    return Path(path).suffix.lower() in (".tsv", ".csv", ".xlsx")


def iter_table(path: str | Path) -> Iterator[Row]:
    """The rows of a table with a header (UTF-8, byte order mark allowed, LF or CRLF), one held at a time: columns by
    name, all of them text; an empty cell is the empty text. The first row below the header is row 2, as in a
    spreadsheet.

    Raises:
        InputError: The file is no such table, a row has more or fewer cells than the header, or there is no row.
    """
    file, names, number = str(path), None, 0
    for number, cells in enumerate(_workbook(path) if Path(path).suffix.lower() == ".xlsx" else _text(path), 1):
        if names is None:
            names = cells
            if len(set(names)) < len(names):
                raise InputError(f"columns {names}", "names that differ", file=file, row=1)
        elif cells and len(cells) != len(names):
            found = f"{len(cells)} cells under {len(names)} columns"
            raise InputError(found, _LAYOUT, file=file, row=number)
        elif cells:
            yield Row(Origin(file, number), dict(zip(names, cells, strict=True)))
    if number < 2:
        raise InputError("no rows", _LAYOUT, file=file)


def _text(path: str | Path) -> Iterator[list[str]]:
    csv.field_size_limit(_LARGEST_CELL)
    records, number = csv.reader(read_lines(path), delimiter=delimiter(path)), 0
    try:
        for cells in records:
            number += 1
            yield cells
    except csv.Error as error:
        found = f"a table that cannot be read ({error})"
        raise InputError(found, _LAYOUT, file=str(path), row=number + 1) from None


def _workbook(path: str | Path) -> Iterator[list[str]]:
    # Only where there is a workbook: it takes a while to import.
    import openpyxl
    from openpyxl.utils.exceptions import InvalidFileException

    width = 0
    try:
        with Path(path).open("rb") as file:
            book = openpyxl.load_workbook(file, read_only=True, data_only=True)
            for cells in book.worksheets[0].iter_rows(values_only=True):
                written = [_cell(cell) for cell in cells]
                # A sheet is as wide as its widest row, and empty cells at the end may be there or not.
                while written and not written[-1]:
                    written.pop()
                width = width or len(written)
                yield written and [*written, *[""] * (width - len(written))]
    except FileNotFoundError:
        raise InputError("no such file", "a file", file=str(path)) from None
    except (OSError, InvalidFileException, zipfile.BadZipFile, KeyError, ValueError, IndexError) as error:
        raise InputError(f"a workbook that cannot be read ({error})", "an .xlsx file", file=str(path)) from None


def _cell(value: object) -> str:
    """A number that is whole is written as one: workbooks know no other numbers than floating-point ones."""
    if value is None:
        return ""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def delimiter(path: str | Path) -> str:
    """What stands between the cells of a file of this name."""
    return "," if Path(path).suffix.lower() == ".csv" else "\t"
