"""Held-out images to look at: where the models differ most, and some that no result has chosen."""

import dataclasses
import itertools
from collections.abc import Mapping
from pathlib import Path

from vlm_jax.scenes.files import read_scenes
from vlm_jax.scenes.truth import chair_counts
from vlm_jax.scenes.world import Scene, present_kinds

DIFFER, EVEN = "the models differ most", "taken at even steps"

Descriptions = Mapping[str, Mapping[str, str]]  # Model -> file name -> text.


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image of the gallery.

    Attributes:
        file: Its name in the world.
        png: The file's bytes.
        scene: What is in it.
        descriptions: Model -> text.
        reason: Why it was chosen.
    """

    file: str
    png: bytes
    scene: Scene
    descriptions: Mapping[str, str]
    reason: str


def choose_gallery(descriptions: Descriptions, scenes: Mapping[str, Scene], count: int) -> dict[str, str]:
    """File names of images that every model has described, with the reason for each; equal arguments, equal choice.

    Half are those where the models' mistakes differ most, whichever model they speak for; the rest lies at even steps
    through the other files in order of name, whatever was said about them.
    """
    files = sorted(set(scenes).intersection(*descriptions.values()))
    apart = {file: _disagreement([texts[file] for texts in descriptions.values()], scenes[file]) for file in files}
    differing = sorted((file for file in files if apart[file]), key=lambda file: (-apart[file], file))
    chosen = dict.fromkeys(differing[: (count + 1) // 2], DIFFER)
    rest = [file for file in files if file not in chosen]
    wanted = min(count - len(chosen), len(rest))
    return chosen | {rest[(2 * i + 1) * len(rest) // (2 * wanted)]: EVEN for i in range(wanted)}


def pictures(world: Path, descriptions: Descriptions, count: int = 12) -> list[Picture]:
    """The chosen images of a world, read from its folder."""
    scenes = read_scenes(world)
    return [
        Picture(
            file,
            (world / "images" / file).read_bytes(),
            scenes[file],
            {model: texts[file] for model, texts in descriptions.items()},
            reason,
        )
        for file, reason in choose_gallery(descriptions, scenes, count).items()
    ]


def _disagreement(texts: list[str], scene: Scene) -> int:
    """Mistakes (an absent kind named, a present one missed) that one model of a pair makes and the other does not."""
    mistakes = [_mistakes(text, scene) for text in texts]
    return sum(len(one ^ other) for one, other in itertools.combinations(mistakes, 2))


def _mistakes(text: str, scene: Scene) -> set[str]:
    _, absent, found = chair_counts(text, scene)
    return absent | (set(present_kinds(scene)) - found)
