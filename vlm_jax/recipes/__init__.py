"""Figures for a preset and a stage, each with its source: the TOML files in this folder, or a user's own.

A recipe has a table ``[options]``, whose keys are options of the verb that the stage belongs to, and may have a table
``[with_facts]`` of what is different where a reward model reads facts. ``PRESET/STAGE`` names it.
"""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vlm_jax.errors import InputError, did_you_mean
from vlm_jax.files import read_text

_FOLDER = Path(__file__).parent
_TABLES = ("options", "with_facts")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """Figures as they stand in a file.

    Attributes:
        name: ``PRESET/STAGE``, or the path of a user's file.
        file: Where it stands.
        options: Values by the verb's options.
        with_facts: What replaces some of them where facts are read.
    """

    name: str
    file: Path
    options: Mapping[str, Any]
    with_facts: Mapping[str, Any]

    def figures(self, facts: bool) -> dict[str, Any]:
        """All values, for a reward model with or without facts."""
        return {**self.options, **(self.with_facts if facts else {})}


def names() -> list[str]:
    """Of the recipes in the package."""
    return sorted(str(path.relative_to(_FOLDER).with_suffix("")) for path in _FOLDER.glob("*/*.toml"))


def find(name: str) -> Path:
    """The file of a recipe.

    Raises:
        InputError: There is none of this name.
    """
    if name in names():
        return _FOLDER / f"{name}.toml"
    if name.endswith(".toml"):
        return Path(name)
    found = f"recipe {name!r}{did_you_mean(name, names())}"
    raise InputError(found, f"a .toml file, or one of {', '.join(names())}")


def read(name: str) -> Recipe:
    """A recipe of the package (``PRESET/STAGE``) or of a user's file.

    Raises:
        InputError: There is none, or the file is no recipe.
    """
    file = find(name)
    try:
        tables = tomllib.loads(read_text(file))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"no TOML ({error})", "a recipe", file=str(file)) from None
    odd = sorted(key for key, value in tables.items() if key not in _TABLES or not isinstance(value, dict))
    if odd or "options" not in tables:
        found = f"keys {', '.join(odd)}" if odd else "no table [options]"
        raise InputError(found, "a table [options], and perhaps [with_facts]", file=str(file))
    options, with_facts = tables["options"], tables.get("with_facts", {})
    if unknown := sorted(with_facts.keys() - options.keys()):
        raise InputError(f"{', '.join(unknown)} in [with_facts] alone", "it in [options] too", file=str(file))
    return Recipe(name, file, options, with_facts)
