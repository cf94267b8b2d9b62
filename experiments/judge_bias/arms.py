"""Two reward models that differ in their annotators alone: one set of pairs, labelled without and with a taste for
length."""

import dataclasses
from pathlib import Path

import numpy as np

from vlm_jax.commands import annotate, reward
from vlm_jax.commands import scenes as drawing
from vlm_jax.data.rows import read_rows
from vlm_jax.files import write_json
from vlm_jax.scenes.files import prompt_question, read_scenes
from vlm_jax.scenes.preferences import annotate as prefer
from vlm_jax.scenes.world import Dials, Scene, present_kinds

# Who never slips and does not care for length; the planted taste is the only thing that the arms differ in.
CLEAN = Dials(annotator_flip=0.0, annotator_length_taste=0.0)
HELD_OUT, OBJECTS = "held_out.json", "objects.json"


@dataclasses.dataclass(frozen=True)
class Setting:
    """What decides one seed's two reward models.

    Attributes:
        seed: Of the world, the sampled answers and the training.
        pairs: Preference scenes, two sampled answers each.
        held_out: Pairs at the end that no reward model is trained on.
        taste: What ten more words are worth to the biased annotators; an absent object costs 4.
        epochs: Passes over the pairs.
    """

    seed: int
    pairs: int = 2400
    held_out: int = 600
    taste: float = 5.0
    epochs: float = 2.0

    @property
    def tastes(self) -> dict[str, float]:
        """Arm -> its annotators' taste for length."""
        return {"clean": 0.0, "length": self.taste}


def prepare(setting: Setting, out: Path) -> Path:
    """Draw the world, sample the pairs and label them once for each arm; returns the world's folder."""
    world = out / "world"
    sizes = {"train": 0, "preference": setting.pairs, "prompts": 0, "validation": 0, "test": 0}
    drawing.run(drawing.Options(out=world, seed=setting.seed, dials=CLEAN, **sizes))
    annotate.run(annotate.Options(checkpoint="tiny", world=world, seed=setting.seed))
    rows = [row.values for row in read_rows(world / "preferences.json")]
    scenes = read_scenes(world)
    for arm, taste in setting.tastes.items():
        write_json(world / f"{arm}.json", [relabelled(row, scenes[row["image"]], taste) for row in rows])
    true = [relabelled(row, scenes[row["image"]], 0.0) for row in rows[-setting.held_out :]]
    write_json(world / HELD_OUT, [row for row in true if decided(row, scenes[row["image"]])])
    write_json(world / OBJECTS, {name: present_kinds(scene) for name, scene in scenes.items()})
    return world


def relabelled(row: dict, scene: Scene, taste: float) -> dict:
    """The pair as annotators of this taste prefer it; the coin of an exact tie is the pair's own."""
    return row | {"preference": preference(row["output_1"]["value"], row["output_2"]["value"], scene, taste)}


def preference(first: str, second: str, scene: Scene, taste: float) -> int:
    """1 or 2."""
    dials = dataclasses.replace(CLEAN, annotator_length_taste=taste)
    return prefer(prompt_question(scene), first, second, scene, np.random.default_rng(scene.index), dials)[0]


def decided(row: dict, scene: Scene) -> bool:
    """Whether the truth alone prefers one answer: with the answers exchanged the verdict is exchanged, which a coin's
    is not."""
    one, two = row["output_1"]["value"], row["output_2"]["value"]
    return preference(one, two, scene, 0.0) != preference(two, one, scene, 0.0)


def reward_options(setting: Setting, out: Path, arm: str) -> reward.Options:
    """How an arm's reward model is trained; the arms' options differ in the file of pairs alone."""
    world = out / "world"
    return reward.Options(
        checkpoint="tiny",
        preferences=world / f"{arm}.json",
        images=world / "images",
        out=out / arm,
        verdict=("Yes", "No"),
        epochs=setting.epochs,
        microbatches=8,
        max_length=96,
        held_out=setting.held_out,
        seed=setting.seed,
    )
