"""Say what a folder of weights is: its layout, its parts with their parameters and types, and what is missing.

usage: vlm-jax checkpoint show DIR
"""

import dataclasses
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        action: `show`.
        folder: Any folder of weights, or `tiny`.
    """

    action: Annotated[Literal["show"], tyro.conf.Positional]
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]


def run(options: Options) -> None:
    from rich.console import Console
    from rich.table import Table

    from vlm_jax.checkpoints.opening import checkpoint_folder
    from vlm_jax.checkpoints.summary import describe

    found = describe(checkpoint_folder(options.folder))
    console = Console()
    console.print(f"layout: {found.layout}", soft_wrap=True)
    table = Table("part", "parameters", "MiB", "types")
    for name, part in found.parts.items():
        table.add_row(name, f"{part.parameters:,}", f"{part.bytes / 2**20:,.1f}", ", ".join(sorted(part.types)))
    console.print(table)
    for line in found.remarks:
        console.print(line, soft_wrap=True, markup=False)
