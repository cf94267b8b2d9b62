"""Every place where a verb reads a file, with everything that may stand there instead."""

import dataclasses
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from broken_files import BROKEN, Broken, holes
from good_commands import Ground
from hostile_case import Case, instead, refused

_ROOT = "to root no file is unreadable" if hasattr(os, "geteuid") and os.geteuid() == 0 else None


@dataclasses.dataclass(frozen=True)
class Place:
    """An option that names a file.

    Attributes:
        verb, option: The option, of Python's spelling.
        format: What is read from it, see ``Broken.formats``.
        name: Of the broken file.
        among: What the option's value is, from the file's path.
        accepted: Kinds that are no mistake here.
        silent: Kinds of which the line says other words.
    """

    verb: str
    option: str
    format: str
    name: str = "broken.json"
    among: Callable[[Path, Ground], Any] = lambda path, ground: path
    accepted: tuple[str, ...] = ()
    more: dict[str, Any] = dataclasses.field(default_factory=dict)


def _replay(path: Path, ground: Ground) -> str:
    return f"replay:{path}"


PLACES = (
    Place("sft", "data", "rows"),
    Place("sft", "recipe", "toml", "mine.toml"),
    Place("reward", "preferences", "rows"),
    Place("reward", "facts", "object"),
    Place("reward", "reward_prompt", "text", "turn.txt"),
    Place("ppo", "prompts", "rows"),
    Place("ppo", "recipe", "toml", "mine.toml"),
    Place("sample", "prompts", "rows"),
    Place("score", "data", "rows"),
    Place("score", "reward_prompt", "text", "turn.txt"),
    Place("generate", "image", "picture", "broken.png"),
    Place("recipe", "name", "toml", "mine.toml"),
    Place("eval pope", "questions", "rows"),
    Place("eval pope", "answers", "rows", "broken.jsonl"),
    Place("eval pope-mean", "results", "object", among=lambda path, ground: (path, ground.shared.pope)),
    Place("eval chair", "objects", "object"),
    Place("eval chair", "synonyms", "object"),
    Place("eval chair", "answers", "rows"),
    Place("eval amber", "annotations", "rows"),
    Place("eval amber", "relations", "object"),
    Place("eval amber", "answers", "rows"),
    Place("eval hallusionbench", "data", "rows"),
    Place("eval mmhal", "questions", "rows"),
    Place("eval mmhal", "judge", "rows", "broken.jsonl", _replay),
    Place("eval mmhal", "template_file", "text", "rubric.txt"),
    Place("eval llava-bench", "questions", "rows"),
    Place("eval llava-bench", "references", "rows"),
    Place("eval llava-bench", "context", "rows"),
    Place("eval llava-bench", "rules", "object"),
    Place("eval mme", "answers", "rows"),
    Place("eval vqa", "questions", "json"),
    Place("eval vqa", "annotations", "json"),
    Place("eval vqa", "answers", "rows"),
    Place("eval aokvqa", "questions", "rows"),
    Place("eval mmbench", "questions", "table", "broken.tsv"),
    Place("eval mmbench", "answers", "rows"),
    Place("eval judge-bias", "preferences", "rows"),
    Place("eval judge-bias", "objects", "object"),
    Place("eval chair-objects", "instances", "object"),
    Place("eval chair-objects", "captions", "object"),
    Place("eval pope-questions", "objects", "rows"),
)


def _case(place: Place, kind: str, broken: Broken, slow: bool) -> Case:
    def value(ground: Ground) -> Any:
        path = ground.folder / place.name
        path.unlink(missing_ok=True)
        broken.make(path)
        return place.among(path, ground)

    if place.verb == "recipe":
        arguments = instead("recipe", 1, value)
    else:
        arguments = instead(place.verb, **{place.option: value}, **place.more)
    skip = _ROOT if kind == "unreadable" else None
    words = (place.name, *broken.words)
    name = f"{place.option.replace('_', '-')}-{kind}"
    return Case(place.verb, name, arguments, refused(*words), slow, skip)


# Of so many cases of a place one is quick; every place and every kind comes among those.
_STRIDE = 16


def _cases() -> Iterator[Case]:
    for number, place in enumerate(PLACES):
        kinds = [kind for kind, broken in BROKEN.items() if place.format in broken.formats]
        for turn, kind in enumerate(kind for kind in kinds if kind not in place.accepted):
            yield _case(place, kind, BROKEN[kind], slow=(turn + 5 * number) % _STRIDE != 0)


def _too_large(ground: Ground) -> Path:
    path = ground.folder / "large.json"
    holes(1 << 43)(path)
    return path


CASES = [
    *_cases(),
    Case("eval chair", "objects-8-TB", instead("eval chair", objects=_too_large), refused("large.json", "memory")),
]
