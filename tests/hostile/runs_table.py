"""Folders that another run began, left half-written or holds; and more than any memory takes."""

import fcntl
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from broken_files import BROKEN
from good_commands import Ground
from hostile_case import Case, Ended, Gives, instead, refused

_OTHER = {"settings": {"seed": 7}, "inputs": {}, "base": {}, "options": {}}


def _out(fill: Callable[[Path], None]) -> Callable[[Ground], Path]:
    """The folder of a run that was there before."""

    def make(ground: Ground) -> Path:
        ground.out.mkdir()
        fill(ground.out)
        return ground.out

    return make


def _saved(record: Any) -> Callable[[Path], None]:
    """A run with a step that it saved."""

    def fill(folder: Path) -> None:
        (folder / "steps" / "3").mkdir(parents=True)
        if record is not None:
            (folder / "run.json").write_text(record if isinstance(record, str) else json.dumps(record))

    return fill


def _kept(*parts: str, kind: str = "empty") -> Callable[[Path], None]:
    def fill(folder: Path) -> None:
        path = folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        BROKEN[kind].make(path)

    return fill


def _held(ground: Ground) -> Path:
    """A run that another process is at. The lock goes when the file is collected, which this function's list keeps."""
    ground.out.mkdir()
    file = (ground.out / "lock").open("ab")
    fcntl.flock(file, fcntl.LOCK_EX)
    _HELD.append(file)
    return ground.out


_HELD: list[Any] = []


def _output(name: str, **beside: str) -> Callable[[Ground], Path]:
    def make(ground: Ground) -> Path:
        for ending, content in beside.items():
            ground.write(f"{name}.{ending.replace('_', '.')}", content)
        return ground.folder / f"{name}.jsonl"

    return make


def _trained(ended: Ended) -> None:
    assert (ended.ground.out / "adapter" / "adapter_model.safetensors").is_file()


_RUNS: dict[str, tuple[Callable[[Ground], Path], tuple[str, ...]]] = {
    "other-options": (_out(_saved(_OTHER)), ("run.json", "settings.seed 7")),
    "record-empty": (_out(_saved("")), ("run.json", "JSON")),
    "record-cut": (_out(_saved('{"settings": {')), ("run.json", "JSON")),
    "record-a-list": (_out(_saved([])), ("run.json",)),
    "record-with-nan": (_out(_saved('{"settings": {"seed": NaN}}')), ("run.json", "NaN")),
    "steps-without-record": (_out(_saved(None)), ("run.json",)),
    "result-without-record": (_out(_kept("adapter", "x")), ("record",)),
    "held-by-another": (_held, ("in use by another process",)),
}


def _runs() -> Iterator[Case]:
    for number, (name, (make, words)) in enumerate(_RUNS.items()):
        # What a step found is made before the state is opened.
        keeps = ("out/lock", "out/answers")
        for verb in ("sft", "reward", "ppo"):
            slow = verb != ("sft", "reward", "ppo")[number % 3] or name != "result-without-record"
            yield Case(verb, f"out-{name}", instead(verb, out=make), refused(*words, keeps=keeps), slow)


_PARTIAL: dict[str, tuple[Callable[[Ground], Path], tuple[str, ...]]] = {
    "result-without-record": (_output("o", jsonl="{}\n"), ("record",)),
    "record-of-another": (_output("o", jsonl="{}\n", run_json=json.dumps(_OTHER)), ("o.run.json", "seed")),
    "record-broken": (_output("o", jsonl="{}\n", run_json="{"), ("o.run.json", "JSON")),
    "partial-of-another": (_output("o", jsonl_partial="{}\n", run_json=json.dumps(_OTHER)), ("o.run.json", "seed")),
}


def _outputs() -> Iterator[Case]:
    for name, (make, words) in _PARTIAL.items():
        for verb in ("sample", "score"):
            yield Case(verb, f"output-{name}", instead(verb, output=make), refused(*words), slow=True)


# Options that no machine of today holds; the estimate names them before anything is made.
_MEMORY = (
    ("generate", {"max_new_tokens": 1 << 20, "max_length": 1 << 20, "prompt": "why? " * 100_000}, ("keys and values",)),
    ("sample", {"batch_size": 1 << 20, "max_new_tokens": 1 << 20}, ("keys and values", "GB")),
    ("annotate", {"batch_size": 1 << 20, "max_new_tokens": 1 << 20}, ("keys and values", "GB")),
    ("eval scenes", {"batch_size": 65536, "max_new_tokens": 65536}, ("keys and values", "GB")),
    ("sft", {"max_length": 1 << 20}, ("attention mask", "GB", "--batch-size")),
    ("reward", {"max_length": 1 << 20}, ("attention mask", "GB")),
    ("ppo", {"prompt_length": 1 << 20}, ("attention mask", "GB")),
    ("ppo", {"max_new_tokens": 1 << 20, "batch_size": 1 << 10}, ("keys and values", "GB")),
)


def _memory() -> Iterator[Case]:
    for number, (verb, options, words) in enumerate(_MEMORY):
        # Whatever the machine has.
        yield Case(verb, f"memory-{number}", instead(verb, **options), refused(*words), slow=True)


CASES = [
    *_runs(),
    *_outputs(),
    *_memory(),
    Case(
        "sft",
        "out-of-a-run-that-never-saved",
        instead("sft", out=_out(lambda folder: (folder / "run.json").write_text(json.dumps(_OTHER)))),
        Gives(_trained),
        slow=True,
    ),
    Case(
        "scenes", "out-another-world", instead("scenes", out=lambda ground: ground.shared.world), refused("world.json")
    ),
    Case("scenes", "out-no-world", instead("scenes", out=_out(_kept("x"))), refused("record")),
    Case(
        "demo",
        "out-of-another",
        instead(
            "demo",
            out=_out(
                lambda folder: [
                    (folder / "results.json").write_text("{}"),
                    (folder / "run.json").write_text(json.dumps(_OTHER)),
                ]
            ),
        ),
        refused("run.json", "seed"),
    ),
    Case(
        "annotate",
        "pairs-without-record",
        instead("annotate", world=lambda ground: _annotated(ground)),
        refused("record"),
    ),
]


def _annotated(ground: Ground) -> Path:
    ground.write("world/preferences.json", "[]")
    return ground.folder / "world"
