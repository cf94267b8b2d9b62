"""What the verbs share that write a line of JSON for every row of a file with pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vlm_jax.data.sources import Record


def check_output(output: Path) -> None:
    """Raises:
    InputError: The name is none of JSON lines, beside which the record of the making has its place, or a folder's.
    """
    from vlm_jax.errors import InputError

    if output.suffix != ".jsonl":
        raise InputError(f"--output {output}", "a name that ends in .jsonl")
    if output.is_dir():
        raise InputError("a folder", "a file of JSON lines", file=str(output))


def make_rows(
    target: Path,
    options: Any,
    records: "Sequence[Record]",
    make: Callable[[], None],
    *,
    without_effect: "Sequence[str]" = (),
    **inputs: Callable[[], Any],
) -> None:
    """:func:`vlm_jax.runs.row_files.make_once`, with every picture decoded before the first row.

    Args:
        target: The file.
        options: A verb's options.
        records: All rows.
        make: Writes the file, or goes on with it.
        without_effect: Options that change no row.
        inputs: What the file depends on beside options and pictures.

    Raises:
        InputError: A picture cannot be read (names its row), or something else stands in ``target``.
    """
    from vlm_jax.data.checks import check_images
    from vlm_jax.files import files_sha256
    from vlm_jax.runs.progress import Meter
    from vlm_jax.runs.row_files import make_once

    if records and not any(record.image for record in records):
        print(f"none of {len(records)} rows shows a picture")
    pictures = list(dict.fromkeys(record.image for record in records if record.image is not None))

    def checked() -> None:
        with Meter("pictures", len(pictures)) as meter:
            check_images(records, meter.update)
        make()

    inputs = {"pictures": lambda: files_sha256(pictures), **inputs}
    make_once(target, options, options.checkpoint, checked, without_effect=without_effect, **inputs)
