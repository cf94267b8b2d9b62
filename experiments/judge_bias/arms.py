"""Two reward models that differ in their annotators alone: one set of pairs, labelled without and with a taste for
length."""

import abc
import dataclasses
from pathlib import Path
from typing import ClassVar

import numpy as np

from vlm_jax.commands import annotate, reward
from vlm_jax.commands import scenes as drawing
from vlm_jax.data.rows import read_rows
from vlm_jax.files import write_json
from vlm_jax.scenes.files import preference_row, prompt_question, read_scenes
from vlm_jax.scenes.language import INSTRUCTIONS, describe
from vlm_jax.scenes.preferences import annotate as annotate_pair
from vlm_jax.scenes.questions import Question
from vlm_jax.scenes.world import Dials, Scene, absent_kinds, generator_for, present_kinds

# Who never slips and does not care for length; the planted taste is the only thing that the arms differ in.
CLEAN = Dials(annotator_flip=0.0, annotator_length_taste=0.0)
_DESCRIBE = Question("holistic", INSTRUCTIONS[0], "", {})
HELD_OUT, OBJECTS = "held_out.json", "objects.json"
ARMS = ("clean", "length")


@dataclasses.dataclass(frozen=True)
class Setting(abc.ABC):
    """What decides one seed's two reward models.

    Attributes:
        seed: Of the world, the answers and the training.
        pairs: Scenes, two answers each.
        held_out: Pairs at the end that no reward model is trained on.
        taste: What ten more words are worth to the biased annotators; an absent object costs 4.
        epochs: Passes over the pairs.
    """

    name: ClassVar[str]
    max_length: ClassVar[int]
    seed: int
    pairs: int
    held_out: int
    taste: float = 5.0
    epochs: float = 2.0

    def taste_of(self, arm: str) -> float:
        return self.taste if arm == "length" else 0.0

    @abc.abstractmethod
    def rows(self, world: Path) -> tuple[list[dict], list[dict]]:
        """The pairs to train on and the held-out ones, labelled by nobody yet."""

    def question(self, scene: Scene) -> Question:
        """What the answers are to."""
        return _DESCRIBE

    def relabelled(self, row: dict, scene: Scene, taste: float) -> dict:
        """The pair as annotators of this taste prefer it; the coin of an exact tie is the pair's own."""
        return row | {"preference": self._preference(row, scene, taste)}

    def decided(self, row: dict, scene: Scene) -> bool:
        """Whether the truth alone prefers one answer: with the answers exchanged the verdict is exchanged, which a
        coin's is not."""
        return self._preference(row, scene, 0.0) != self._preference(row, scene, 0.0, exchanged=True)

    def _preference(self, row: dict, scene: Scene, taste: float, exchanged: bool = False) -> int:
        answers = [row["output_1"]["value"], row["output_2"]["value"]]
        dials = dataclasses.replace(CLEAN, annotator_length_taste=taste)
        rng = np.random.default_rng(scene.index)
        return annotate_pair(self.question(scene), *(answers[::-1] if exchanged else answers), scene, rng, dials)[0]


@dataclasses.dataclass(frozen=True)
class RulePairs(Setting):
    """Pairs made by rule: two descriptions of a scene, one with an object that is not there. Each is said twice by a
    coin of its own, so that most of what there is of length says nothing of the truth; held-out answers are all said
    once."""

    name: ClassVar[str] = "made"
    max_length: ClassVar[int] = 128
    pairs: int = 1600
    held_out: int = 400

    def rows(self, world: Path) -> tuple[list[dict], list[dict]]:
        scenes = read_scenes(world)
        cut = len(scenes) - self.held_out
        made = [_made_row(name, scene, twice=place < cut) for place, (name, scene) in enumerate(scenes.items())]
        return made[:cut], made[cut:]


@dataclasses.dataclass(frozen=True)
class SampledPairs(Setting):
    """Pairs of answers that the tiny model samples, as for RLHF."""

    name: ClassVar[str] = "sampled"
    max_length: ClassVar[int] = 96
    pairs: int = 2400
    held_out: int = 600

    def rows(self, world: Path) -> tuple[list[dict], list[dict]]:
        annotate.run(annotate.Options(checkpoint="tiny", world=world, seed=self.seed))
        sampled = [row.values for row in read_rows(world / "preferences.json")]
        return sampled[: -self.held_out], sampled[-self.held_out :]

    def question(self, scene: Scene) -> Question:
        return prompt_question(scene)


def _made_row(name: str, scene: Scene, twice: bool) -> dict:
    rng = generator_for(scene, "judge_bias")
    absent = absent_kinds(scene)
    texts = [describe(scene, rng), describe(scene, rng, absent[int(rng.integers(len(absent)))])]
    coins = rng.random(3) < 0.5
    said = [f"{text} {text}" if twice and coin else text for text, coin in zip(texts, coins[:2], strict=True)]
    return preference_row(name, _DESCRIBE, *(said[::-1] if coins[2] else said), 1, True)


def prepare(setting: Setting, out: Path) -> Path:
    """Draw the world, make the pairs and label them once for each arm; returns the world's folder."""
    world = out / "world"
    sizes = {"train": 0, "preference": setting.pairs, "prompts": 0, "validation": 0, "test": 0}
    drawing.run(drawing.Options(out=world, seed=setting.seed, dials=CLEAN, **sizes))
    scenes = read_scenes(world)
    rows, held_out = setting.rows(world)
    for arm in ARMS:
        labelled = [setting.relabelled(row, scenes[row["image"]], setting.taste_of(arm)) for row in rows + held_out]
        write_json(world / f"{arm}.json", labelled)
    true = [setting.relabelled(row, scenes[row["image"]], 0.0) for row in held_out]
    write_json(world / HELD_OUT, [row for row in true if setting.decided(row, scenes[row["image"]])])
    write_json(world / OBJECTS, {name: present_kinds(scene) for name, scene in scenes.items()})
    return world


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
        max_length=setting.max_length,
        held_out=setting.held_out,
        seed=setting.seed,
    )
