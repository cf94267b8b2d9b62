"""What many commands read and none may write: pictures, a drawn world, adapters over the tiny model, results."""

import functools
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vlm_jax.checkpoints.adapters import save_adapter
from vlm_jax.checkpoints.opening import TINY
from vlm_jax.checkpoints.reward_view import VIEW_FILE, TrainedView, written_view
from vlm_jax.cli import main
from vlm_jax.config import PRESETS
from vlm_jax.data.evaluation_turn import SHORT
from vlm_jax.models.adapters import init_lora, init_reward_head

CONFIG = PRESETS["scenes-tiny"]


class Shared:
    """Each is made once, when somebody first asks for it."""

    def __init__(self, folder: Path):
        self.folder = folder

    @functools.cached_property
    def images(self) -> Path:
        from good_commands import png

        folder = self.folder / "images"
        folder.mkdir()
        (folder / "0.png").write_bytes(png())
        (folder / "1.jpg").write_bytes(png(form="JPEG"))
        return folder

    @functools.cached_property
    def world(self) -> Path:
        folder = self.folder / "world"
        sizes = {"train": 2, "preference": 2, "prompts": 2, "validation": 2, "test": 30}
        main(["scenes", "--out", str(folder), *(f"--{split}={size}" for split, size in sizes.items())])
        return folder

    @functools.cached_property
    def policy(self) -> Path:
        save_adapter(self.folder / "policy", CONFIG, {"lora": _lora()})
        return self.folder / "policy"

    @functools.cached_property
    def reward(self) -> Path:
        """Of random weights; its training saw no facts and whole pictures."""
        head = init_reward_head(CONFIG, jax.random.key(1))
        view = written_view(TrainedView(facts=False, resolution=None, prompt=SHORT))
        save_adapter(self.folder / "reward", CONFIG, {"lora": _lora(), "head": head}, notes={VIEW_FILE: view})
        return self.folder / "reward"

    @functools.cached_property
    def converted(self) -> Path:
        """The tiny model in our own layout."""
        main(["convert", str(TINY), str(self.folder / "converted")])
        return self.folder / "converted"

    @functools.cached_property
    def pope(self) -> Path:
        return self._pope("pope", "cat")

    @functools.cached_property
    def other_pope(self) -> Path:
        return self._pope("other_pope", "kite")

    def _pope(self, name: str, thing: str) -> Path:
        from good_commands import POPE, POPE_ANSWERS, lines

        folder = self.folder / name
        folder.mkdir()
        questions = [{**row, "text": f"Is there a {thing} in the image?"} for row in POPE]
        (folder / "questions.jsonl").write_text(lines(questions))
        (folder / "answers.jsonl").write_text(lines(POPE_ANSWERS))
        files = ["--questions", folder / "questions.jsonl", "--answers", folder / "answers.jsonl"]
        main(["eval", "pope", *map(str, files), "--output", str(folder / "pope.json")])
        return folder / "pope.json"


def _lora() -> Any:
    """Updates that change something: fresh ones have zeros in B."""
    shapes = init_lora(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda leaf: leaf + 0.01 * np.cos(np.arange(leaf.size)).reshape(leaf.shape), shapes)


def contents(folder: Path) -> dict[str, str]:
    """Every name below a folder and what is there: links by their targets, files by a hash."""
    return dict(_contents(folder, folder))


def _contents(folder: Path, top: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.iterdir()):
        name = repr(str(path.relative_to(top)))[1:-1]
        if path.is_symlink():
            yield name, f"link to {path.readlink()}"
        elif path.is_dir():
            yield name, "folder"
            yield from _contents(path, top)
        elif path.is_file():
            # Of a file with holes a part tells enough.
            with path.open("rb") as file:
                yield name, f"{path.stat().st_size} {hashlib.sha256(file.read(1 << 24)).hexdigest()}"
        else:
            yield name, "something else"
