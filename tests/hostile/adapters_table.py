"""Adapters that belong to another base, or to nobody."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from broken_files import BROKEN
from good_commands import Ground
from hostile_case import Case, instead, refused
from safetensors.numpy import load_file, save_file

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
Change = Callable[[Path], None]


def _copied(change: Change, kind: str = "policy") -> Callable[[Ground], Path]:
    def make(ground: Ground) -> Path:
        folder = Path(shutil.copytree(getattr(ground.shared, kind), ground.folder / "adapter"))
        change(folder)
        return folder

    return make


def _config(**changes: Any) -> Change:
    def make(folder: Path) -> None:
        raw = json.loads((folder / CONFIG).read_text())
        (folder / CONFIG).write_text(json.dumps({**raw, **changes}))

    return make


def _tensors(change: Callable[[str, np.ndarray], np.ndarray | None]) -> Change:
    def make(folder: Path) -> None:
        found = {name: change(name, value) for name, value in load_file(folder / WEIGHTS).items()}
        save_file({name: value for name, value in found.items() if value is not None}, folder / WEIGHTS)

    return make


def _replaced(name: str, kind: str) -> Change:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        BROKEN[kind].make(folder / name)

    return make


def _with(value: float) -> Change:
    return _tensors(lambda name, tensor: np.full_like(tensor, value) if "layers.0." in name else tensor)


BROKEN_ADAPTERS: dict[str, tuple[Change, tuple[str, ...]]] = {
    "config-missing": (_replaced(CONFIG, "missing"), ("adapter",)),
    "config-empty": (_replaced(CONFIG, "empty"), (CONFIG,)),
    "config-a-list": (_replaced(CONFIG, "list-of-numbers"), (CONFIG,)),
    "config-a-pipe": (_replaced(CONFIG, "pipe"), (CONFIG,)),
    "config-deep": (_replaced(CONFIG, "deep-object"), (CONFIG,)),
    "weights-missing": (_replaced(WEIGHTS, "missing"), ("adapter",)),
    "weights-empty": (_replaced(WEIGHTS, "empty"), (WEIGHTS,)),
    "weights-html": (_replaced(WEIGHTS, "html"), (WEIGHTS,)),
    "weights-lfs-pointer": (_replaced(WEIGHTS, "lfs-pointer"), (WEIGHTS, "Git LFS")),
    "weights-a-device": (_replaced(WEIGHTS, "device"), (WEIGHTS,)),
    "weights-of-nothing": (_tensors(lambda name, tensor: None), ("adapter",)),
    "r-0": (_config(r=0), (CONFIG, "r 0")),
    "r-negative": (_config(r=-8), (CONFIG, "r -8")),
    "r-of-another-size": (_config(r=7), ("adapter",)),
    "r-huge": (_config(r=10**9), ("adapter",)),
    "r-true": (_config(r=True), (CONFIG,)),
    "r-text": (_config(r="8"), (CONFIG,)),
    "alpha-0": (_config(lora_alpha=0), (CONFIG, "lora_alpha")),
    "alpha-1e400": (_config(lora_alpha=10**400), (CONFIG, "lora_alpha")),
    "alpha-null": (_config(lora_alpha=None), (CONFIG, "lora_alpha")),
    "dora": (_config(use_dora=True), (CONFIG, "use_dora")),
    "bias": (_config(bias="all"), (CONFIG, "bias")),
    "of-another-kind": (_config(peft_type="IA3"), (CONFIG, "IA3")),
    "pissa": (_config(init_lora_weights="pissa"), (CONFIG, "pissa")),
    "pattern-no-expression": (_config(rank_pattern={"(": 4}), (CONFIG, "rank_pattern")),
    "targets-a-number": (_config(target_modules=3), (CONFIG, "target_modules")),
    "targets-no-expression": (_config(target_modules="(("), ("adapter",)),
    "modules-to-save": (_config(modules_to_save=["lm_head"]), (CONFIG, "lm_head")),
    "nan": (_with(np.nan), (WEIGHTS,)),
    "infinity": (_with(np.inf), (WEIGHTS,)),
    "zeros": (_tensors(lambda name, tensor: 0 * tensor), ("adapter", "nothing")),
    "half-of-a-pair": (_tensors(lambda name, tensor: None if "lora_B" in name else tensor), ("adapter",)),
    "of-a-wider-base": (_tensors(lambda name, tensor: np.tile(tensor, (1, 2))), ("adapter",)),
    "integers": (_tensors(lambda name, tensor: tensor.astype(np.int32)), (WEIGHTS,)),
}


def _cases() -> Iterator[Case]:
    for number, (name, (change, words)) in enumerate(BROKEN_ADAPTERS.items()):
        made = _copied(change)
        yield Case("generate", f"adapter-{name}", instead("generate", adapter=made), refused(*words), True)
        if name not in ("r-of-another-size", "of-a-wider-base", "zeros", "nan", "infinity"):
            line = instead("export", 0, made, layout="peft")
            yield Case("export", f"adapter-{name}", line, refused(*words), number % 3 != 0)
        if number % 4 == 0:
            yield Case("merge", f"adapter-{name}", instead("merge", 1, made), refused(*words), True)
    for kind in ("score", "ppo"):
        for name in ("nan", "r-0", "weights-missing", "config-a-list"):
            change, words = BROKEN_ADAPTERS[name]
            line = instead(kind, reward=_copied(change, "reward"))
            yield Case(kind, f"reward-{name}", line, refused(*words), True)


CASES = list(_cases())
