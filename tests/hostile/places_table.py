"""Where results go: places that take none, that are taken, or that have names nobody expects."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from good_commands import Ground
from hostile_case import Case, Ended, Gives, instead, named, refused

# Options that name a result, and how it ends.
_RESULTS = {
    "scenes": ("out", ""),
    "sft": ("out", ""),
    "reward": ("out", ""),
    "ppo": ("out", ""),
    "demo": ("out", ""),
    "sample": ("output", ".jsonl"),
    "score": ("output", ".jsonl"),
    "eval pope": ("output", ".json"),
    "eval pope-mean": ("output", ".json"),
    "eval mmhal": ("output", ".json"),
    "eval scenes": ("output", ".json"),
    "eval judge-bias": ("output", ".json"),
    "eval chair-objects": ("output", ".json"),
    "eval pope-questions": ("output", ".jsonl"),
}
_POSITIONS = {"convert": 1, "export": 1, "merge": 2}


def _file(ground: Ground, ending: str) -> Path:
    return ground.write("a-file", "kept") / f"out{ending}"


def _folder(ground: Ground, ending: str) -> Path:
    path = ground.folder / f"a-folder{ending}"
    (path / "inside").mkdir(parents=True)
    return path


def _loop(ground: Ground, ending: str) -> Path:
    (ground.folder / "loop").symlink_to("loop")
    return ground.folder / "loop" / f"out{ending}"


_PLACES: dict[str, tuple[Callable[[Ground, str], Any], str]] = {
    "below-a-file": (_file, "a-file"),
    "proc": (lambda ground, ending: f"/proc/out{ending}", "/proc"),
    "deep-in-proc": (lambda ground, ending: f"/proc/self/x/out{ending}", "/proc/"),
    "device": (lambda ground, ending: f"/dev/full/out{ending}", "/dev/full"),
    "name-too-long": (lambda ground, ending: ground.folder / f"{'n' * 256}{ending}", "n" * 99),
    "path-too-long": (lambda ground, ending: ground.folder / ("/".join(["d" * 200] * 30)) / f"x{ending}", "d" * 99),
    "loop": (_loop, "loop"),
}


def _cases():
    for number, (verb, (option, ending)) in enumerate(_RESULTS.items()):
        places = {**_PLACES, "folder": (_folder, "a-folder")} if ending else _PLACES
        for turn, (name, (make, word)) in enumerate(places.items()):
            heavy = verb in ("sft", "reward", "ppo", "demo", "sample", "score", "eval scenes", "eval judge-bias")
            value = functools.partial(make, ending=ending)
            slow = heavy or (turn + number) % 4 != 0
            yield Case(verb, f"{option}-{name}", instead(verb, **{option: value}), refused(word), slow)
    for verb, position in _POSITIONS.items():
        for turn, (name, (make, word)) in enumerate(_PLACES.items()):
            value = functools.partial(make, ending="")
            slow = verb == "merge" or turn % 3 != 0
            yield Case(verb, f"target-{name}", instead(verb, position, value), refused(word), slow)
    for verb, (option, ending) in _RESULTS.items():
        if ending and verb not in ("eval scenes", "eval chair-objects", "eval pope-questions"):
            line = instead(verb, **{option: named("out.txt")})
            yield Case(verb, f"{option}-of-another-ending", line, refused("out.txt"))


_ODD_NAMES = {
    "newline": "two\nlines",
    "escape": "\x1b[2J\x1b[31mred",
    "bell": "\a\b\x7f",
    "right-to-left": "\u202egnp.exe",
    "blanks": "  a  b ",
    "255-bytes": "\u00e9" * 120 + "x" * 10,
    "dash": "-o",
    "quotes": "'\"$(x)`",
    "markup": "[bold]x[/bold][link=x]",
    "percent": "%s%n{0}{}",
}


def _missing_names():
    """A file that is not there is told by its name, on one line and without what steers a terminal."""
    for number, (name, odd) in enumerate(_ODD_NAMES.items()):
        for verb, option in (("sft", "data"), ("generate", "image"), ("eval pope", "questions")):
            quick = number % 3 == ("sft", "generate", "eval pope").index(verb)
            yield Case(
                verb, f"{option}-named-{name}", instead(verb, **{option: named(odd)}), refused("found"), not quick
            )


def _written(name: str) -> Gives:
    def check(ended: Ended) -> None:
        assert (ended.ground.folder / name / "o.json").is_file()

    return Gives(check)


def _good_names():
    """Odd names that are names all the same: results lie there."""
    for name, odd in _ODD_NAMES.items():
        line = instead("eval pope", output=named(f"{odd}/o.json"))
        yield Case("eval pope", f"output-in-{name}", line, _written(odd))


_ROOT = "root writes everywhere" if hasattr(os, "geteuid") and os.geteuid() == 0 else None


def _read_only(ground: Ground) -> Path:
    folder = ground.folder / "read-only"
    folder.mkdir(mode=0o555)
    return folder / "out"


CASES = [
    *_cases(),
    *_missing_names(),
    *_good_names(),
    Case("scenes", "out-read-only", instead("scenes", out=_read_only), refused("read-only"), skip=_ROOT),
    Case("export", "target-read-only", instead("export", 1, _read_only), refused("read-only"), skip=_ROOT),
    Case("sft", "data-not-utf-8", instead("sft", data="caf\udce9.json"), refused("UTF-8", r"\xe9")),
    Case("generate", "prompt-not-utf-8", instead("generate", prompt="\udcff?"), refused("UTF-8", r"\xff")),
    Case("eval pope", "output-not-utf-8", instead("eval pope", output="\udc80.json"), refused("UTF-8", r"\x80")),
    Case("scenes", "out-not-utf-8", instead("scenes", out="\udc80"), refused("UTF-8", r"\x80")),
    Case("scenes", "out-an-empty-folder", instead("scenes", out=lambda ground: ground.folder), refused("record")),
    Case("scenes", "out-empty-word", instead("scenes", out=""), refused("record")),
]
