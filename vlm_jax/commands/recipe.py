"""Figures for a preset and a stage of the road, each with its source.

`vlm-jax recipe list` names them; `vlm-jax recipe show llava-1.5-7b/sft-lora` prints one. Training verbs take the recipe
of the checkpoint's preset, or the one that `--recipe` names: a name of the list, or a file of your own in this format.
What is given on the command line goes before it.
"""

import dataclasses
from typing import Annotated, Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        action: `list` all names, or `show` one.
        name: Of the recipe to show.
    """

    action: Annotated[Literal["list", "show"], tyro.conf.Positional]
    name: Annotated[str | None, tyro.conf.Positional] = None


def run(options: Options) -> None:
    from vlm_jax.errors import InputError
    from vlm_jax.files import read_text
    from vlm_jax.recipes import names, read

    if (options.action == "show") == (options.name is None):
        found = "show without a name" if options.name is None else f"list with {options.name!r}"
        raise InputError(found, "`recipe list`, or `recipe show NAME`")
    print("\n".join(names()) if options.name is None else read_text(read(options.name).file).rstrip())
