"""Recipes that say what no verb takes, and worlds that lack what they tell of."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from broken_files import BROKEN
from good_commands import Ground
from hostile_case import Case, instead, refused, written

_RECIPES: dict[str, tuple[str, str]] = {
    "unknown-key": ("[options]\nlearning_rat = 1e-4\n", "learning_rat"),
    "unknown-table": ("[option]\nepochs = 1\n", "option"),
    "of-nothing": ("[options]\n", "nothing"),
    "text-for-a-number": ('[options]\nlearning_rate = "fast"\n', "learning_rate"),
    "number-for-a-text": ("[options]\nschedule = 3\n", "schedule"),
    "whole-for-a-truth": ("[options]\nbatch_size = true\n", "batch_size"),
    "half-a-row": ("[options]\nbatch_size = 2.5\n", "batch_size"),
    "nan": ("[options]\nlearning_rate = nan\n", "learning"),
    "infinity": ("[options]\nlearning_rate = inf\n", "learning"),
    "below-the-range": ("[options]\nlearning_rate = -4\n", "learning"),
    "a-list": ("[options]\nbatch_size = [1]\n", "batch_size"),
    "a-date": ("[options]\nbatch_size = 1979-05-27\n", "batch_size"),
    "key-twice": ("[options]\nepochs = 1\nepochs = 2\n", "TOML"),
    "cut": ("[options\nepochs = 1\n", "TOML"),
    "options-a-number": ("options = 3\n", "options"),
    "facts-alone": ("[options]\nepochs = 1\n[with_facts]\nsuffix_length = 3\n", "suffix_length"),
    "unknown-word": ('[options]\nschedule = "linear"\n', "schedule"),
    "a-path-of-its-own": ('[options]\ncheckpoint = "x"\n', "checkpoint"),
}


def _recipes() -> Iterator[Case]:
    for number, (name, (text, word)) in enumerate(_RECIPES.items()):
        if name not in ("of-nothing",):
            text = _completed(text)
        recipe = written("mine.toml", text)
        yield Case("sft", f"recipe-{name}", instead("sft", recipe=recipe), refused("mine.toml", word), number % 3 != 0)
        if number % 4 == 1 and name != "of-nothing":
            yield Case("reward", f"recipe-{name}", instead("reward", recipe=recipe), refused("mine.toml"), slow=True)


def _completed(text: str) -> str:
    """With all that sft asks for beside, so that only what is odd is said."""
    if not text.startswith("[options]"):
        return text
    from vlm_jax.recipes import read

    said = {line.partition(" =")[0] for line in text.splitlines()}
    figures = read("scenes-tiny/sft-lora").options
    rest = [f"{name} = {json.dumps(value)}" for name, value in figures.items() if name not in said]
    return "\n".join(["[options]", *rest, text.removeprefix("[options]\n")])


def _world(change: Callable[[Path], None]) -> Callable[[Ground], Path]:
    def make(ground: Ground) -> Path:
        folder = Path(shutil.copytree(ground.shared.world, ground.folder / "world"))
        change(folder)
        return folder

    return make


def _replaced(name: str, kind: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        (folder / name).unlink()
        BROKEN[kind].make(folder / name)

    return change


def _json(name: str, edit: Callable[[Any], Any]) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        raw = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(edit(raw)))

    return change


def _first(**changes: Any) -> Callable[[Any], Any]:
    """The first scene's entry with other values."""

    def edit(raw: Any) -> Any:
        first = next(iter(raw))
        raw[first] = {**raw[first], **changes}
        return raw

    return edit


_WORLDS: dict[str, tuple[Callable[[Path], None], str]] = {
    "scenes-missing": (_replaced("scenes.json", "missing"), "scenes.json"),
    "scenes-empty": (_replaced("scenes.json", "empty"), "scenes.json"),
    "scenes-a-list": (_replaced("scenes.json", "list-of-numbers"), "scenes.json"),
    "scenes-binary": (_replaced("scenes.json", "binary"), "scenes.json"),
    "scenes-a-folder": (_replaced("scenes.json", "folder"), "scenes.json"),
    "scenes-a-pipe": (_replaced("scenes.json", "pipe"), "scenes.json"),
    "scenes-of-nothing": (_json("scenes.json", lambda raw: {}), "world drawn with --"),
    "scene-of-no-split": (_json("scenes.json", _first(split="holiday")), "scenes.json"),
    "scene-of-numbers": (_json("scenes.json", _first(things=[1, 2])), "scenes.json"),
    "scene-without-things": (_json("scenes.json", _first(things=None)), "scenes.json"),
}
_SCORED: dict[str, tuple[Callable[[Path], None], str]] = {
    "questions-missing": (_replaced("pope_test_random.jsonl", "missing"), "pope_test_random.jsonl"),
    "questions-empty": (_replaced("pope_test_random.jsonl", "empty"), "pope_test_random.jsonl"),
    "ratings-missing": (_replaced("mmhal_test.json", "missing"), "mmhal_test.json"),
    "ratings-binary": (_replaced("mmhal_test.json", "binary"), "mmhal_test.json"),
    "pictures-missing": (lambda folder: shutil.rmtree(folder / "images"), "images"),
    "a-picture-broken": (lambda folder: (folder / "images" / "test_000000003.png").write_bytes(b"x"), "test_000000003"),
}


def _worlds() -> Iterator[Case]:
    for number, (name, (change, word)) in enumerate(_WORLDS.items()):
        made = _world(change)
        yield Case("annotate", f"world-{name}", instead("annotate", world=made), refused(word), number % 3 != 0)
        yield Case("eval scenes", f"world-{name}", instead("eval scenes", world=made), refused(word), slow=True)
    for name, (change, word) in _SCORED.items():
        yield Case(
            "eval scenes", f"world-{name}", instead("eval scenes", world=_world(change)), refused(word), slow=True
        )


CASES = [
    *_recipes(),
    *_worlds(),
    Case("annotate", "world-missing", instead("annotate", world="nowhere"), refused("nowhere")),
    Case("annotate", "world-a-file", instead("annotate", world=written("world", "x")), refused("world")),
    Case("annotate", "world-empty", instead("annotate", world=lambda ground: ground.folder), refused("scenes.json")),
    Case("eval scenes", "world-missing", instead("eval scenes", world="nowhere"), refused("nowhere")),
    Case("recipe", "named-as-a-folder", instead("recipe", 1, "scenes-tiny"), refused("scenes-tiny")),
    Case("recipe", "empty-name", instead("recipe", 1, ""), refused("recipe")),
]
