"""From a command line to a verb's options, and what tyro says of both."""

import contextlib
import dataclasses
import io
import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Annotated, Any

import tyro
from tyro.constructors import ConstructorRegistry, StructConstructorSpec, StructFieldSpec, StructTypeInfo

from vlm_jax.commands.from_recipe import is_from_recipe
from vlm_jax.commands.wrong_options import parsed_or_refused
from vlm_jax.terminal import has_colours, wrapped

# Stands for the verb's prose in tyro's help, which would not wrap it.
_PROSE = "<what the verb does>"


def parse(module: ModuleType, verb: str, arguments: Sequence[str]) -> Any:
    """A verb's options.

    Args:
        module: Of the verb, with ``Options`` and a docstring.
        verb: As the user writes it.
        arguments: What follows it.

    Raises:
        SystemExit: Help was asked for, and has been printed.
        InputError: The arguments are no options of this verb.
    """
    held = _Held(getattr(sys.stdout, "encoding", None) or "ascii", has_colours())
    try:
        with contextlib.redirect_stdout(held):
            return parsed_or_refused(verb, arguments, lambda: _parsed(module, verb, arguments))
    finally:
        print(_wrapped_help(held.getvalue(), module.__doc__), end="")


def _parsed(module: ModuleType, verb: str, arguments: Sequence[str]) -> Any:
    return tyro.cli(
        module.Options,
        prog=f"vlm-jax {verb}",
        args=arguments,
        description=_PROSE,
        # An option that may be left out is left out, not set to None.
        config=(tyro.conf.DisallowNone,),
        registry=_registry(module.Options),
    )


def _wrapped_help(said: str, prose: str) -> str:
    """What tyro printed; its frames are as wide as the terminal, and now the rest is too."""
    usage, is_help, options = said.partition(_PROSE)
    return f"{wrapped(usage)}\n\n{wrapped(prose)}{options}" if is_help else said


class _Held(io.StringIO):
    """What would have been printed. tyro asks the output whether frames and colours can be shown, for errors too."""

    def __init__(self, encoding: str, colours: bool):
        super().__init__()
        self._encoding, self._colours = encoding, colours

    @property
    def encoding(self) -> str:
        return self._encoding

    def isatty(self) -> bool:
        return self._colours


def _registry(options: type) -> ConstructorRegistry | None:
    """tyro's rules, but that an option which a recipe fills in says so in place of a default."""
    # Parts of options that come from recipes are also parts of verbs that have none.
    if "recipe" not in {field.name for field in dataclasses.fields(options)}:
        return None
    registry, asked = ConstructorRegistry(), []

    @registry.struct_rule
    def rule(info: StructTypeInfo) -> StructConstructorSpec | None:
        fields = dataclasses.fields(info.type) if dataclasses.is_dataclass(info.type) else ()
        marked = {field.name for field in fields if is_from_recipe(field)}
        # The second time it is this rule that asks, for what tyro's own says.
        if not marked or info in asked:
            return None
        asked.append(info)
        spec = registry.get_struct_spec(info)
        asked.remove(info)
        return dataclasses.replace(
            spec, fields=tuple(_said_by_recipe(field) if field.name in marked else field for field in spec.fields)
        )

    return registry


def _said_by_recipe(field: StructFieldSpec) -> StructFieldSpec:
    return dataclasses.replace(field, type=Annotated[field.type, tyro.conf.arg(help_behavior_hint="(recipe)")])
