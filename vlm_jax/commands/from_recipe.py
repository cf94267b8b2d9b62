"""Options that a recipe fills in where the user leaves them out."""

import dataclasses
import types
import typing
from pathlib import Path
from typing import Any, Literal, TypeVar

from vlm_jax.errors import InputError, did_you_mean
from vlm_jax.ranges import check_ranges
from vlm_jax.recipes import Recipe, names, read

_MARK = "from recipe"

AnyOptions = TypeVar("AnyOptions")


def from_recipe() -> Any:
    """Default of an option that is the recipe's to say."""
    return dataclasses.field(default=None, metadata={_MARK: True})


def is_from_recipe(field: dataclasses.Field) -> bool:
    """Whether an option is the recipe's to say where it is left out."""
    return _MARK in field.metadata


def with_recipe(options: AnyOptions, stage: str, facts: bool = False, without: tuple[str, ...] = ()) -> AnyOptions:
    """The options (a dataclass with ``checkpoint`` and ``recipe``), complete: what was left out is the recipe's.

    Args:
        options: As given.
        stage: Which recipe of the checkpoint's preset it is where ``--recipe`` names none.
        facts: Whether a reward model reads facts.
        without: Options that this stage has no use for; they stay left out.

    Raises:
        InputError: The checkpoint is of no preset and something is left out; the recipe is broken, or of another stage;
            a number is out of its range.
    """
    known = {name: hint for name, hint in _fields(options).items() if name not in without}
    missing = [name for name in _left_out(options) if name in known]
    if missing or options.recipe is not None:
        recipe = read(_name(options, stage, missing))
        figures = _figures(recipe, stage, facts, known, missing)
        if missing:
            print(f"recipe {recipe.name}")
            check_ranges(options)
            options = _filled(dataclasses.replace(options, recipe=recipe.name), figures)
            try:
                check_ranges(options)
            except InputError as error:
                raise error.at(str(recipe.file)) from None
    check_ranges(options)
    return options


def _figures(recipe: Recipe, stage: str, facts: bool, known: dict[str, Any], missing: list[str]) -> dict[str, Any]:
    """What a recipe says, in the options' types.

    Raises:
        InputError: It is of another stage, says something of what is no option, nothing of what is missing, or says it
            in another type.
    """
    _, _, said = recipe.name.rpartition("/")
    if recipe.name in names() and said != stage:
        raise InputError(f"recipe {recipe.name}", f"one of {', '.join(_of_stage(stage))}, or a .toml file")
    figures = recipe.figures(facts)
    if unknown := sorted(figures.keys() - known.keys()):
        found = ", ".join(f"{name}{did_you_mean(name, known)}" for name in unknown)
        raise InputError(found, f"options of {stage}: {', '.join(known)}", file=str(recipe.file))
    if silent := [name for name in missing if name not in figures]:
        wanted = ", ".join(f"--{name.replace('_', '-')}" for name in silent)
        raise InputError(f"nothing on {', '.join(silent)}", f"it there, or {wanted}", file=str(recipe.file))
    return {name: _typed(recipe, name, value, known[name]) for name, value in figures.items()}


def _of_stage(stage: str) -> list[str]:
    return [name for name in names() if name.endswith(f"/{stage}")]


def _name(options: Any, stage: str, missing: list[str]) -> str:
    from vlm_jax.checkpoints.opening import checkpoint_folder, config_of, preset_of

    if options.recipe is not None:
        return options.recipe
    folder = checkpoint_folder(options.checkpoint)
    if (preset := preset_of(config_of(folder))) is not None:
        return f"{preset}/{stage}"
    raise InputError(
        f"a checkpoint of no known preset, and nothing on {', '.join(missing)}",
        f"--recipe with a file or one of {', '.join(_of_stage(stage))}, or those options",
        file=str(folder),
    )


def _left_out(options: Any) -> list[str]:
    """Names of all options that a recipe has to fill in, nested ones included."""
    found = []
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            found += _left_out(value)
        elif is_from_recipe(field) and value is None:
            found.append(field.name)
    return found


def _fields(options: Any) -> dict[str, Any]:
    """Types of all options that a recipe may fill in, by name."""
    found, hints = {}, typing.get_type_hints(type(options))
    for field in dataclasses.fields(options):
        if dataclasses.is_dataclass(value := getattr(options, field.name)):
            found |= _fields(value)
        elif is_from_recipe(field):
            found[field.name] = hints[field.name]
    return found


def _filled(options: AnyOptions, figures: dict[str, Any]) -> AnyOptions:
    changes = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = _filled(value, figures)
        elif is_from_recipe(field) and value is None and field.name in figures:
            changes[field.name] = figures[field.name]
    return dataclasses.replace(options, **changes)


def _typed(recipe: Recipe, name: str, value: Any, hint: Any) -> Any:
    """A value of TOML as the option has it.

    Raises:
        InputError: It is of another type.
    """
    kinds = [kind for kind in typing.get_args(hint) if kind is not types.NoneType]
    for kind in kinds:
        if typing.get_origin(kind) is Literal:
            if value in typing.get_args(kind):
                return value
        elif typing.get_origin(kind) is tuple:
            inner = typing.get_args(kind)[0]
            if isinstance(value, list) and value and all(type(one) is inner for one in value):
                return tuple(value)
        elif kind is float and type(value) in (int, float):
            return float(value)
        elif kind is Path and isinstance(value, str):
            return Path(value)
        elif type(value) is kind:
            return value
    wanted = " or ".join(getattr(kind, "__name__", str(kind).removeprefix("typing.")) for kind in kinds)
    raise InputError(f"{name} = {value!r}", f"{name} as {wanted}", file=str(recipe.file))
