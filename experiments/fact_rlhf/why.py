"""Where the gain from facts goes: what each reward model knows, and which hallucinations each policy gave up."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

from vlm_jax.checkpoints.opening import open_model, open_role
from vlm_jax.commands import demo, reward
from vlm_jax.data.sources import Preference
from vlm_jax.scenes.files import read_scenes
from vlm_jax.scenes.truth import chair_counts
from vlm_jax.scenes.world import PARTNER, Scene, present_kinds


def explain(options: demo.Options) -> dict:
    """What a finished comparison's folder tells beside its scores.

    Returns:
        ``truth_accuracy`` of both reward models, over the held-out pairs whose answers name different numbers of
        absent kinds: how often the answer with fewer scores higher (annotators have no part in it); and for the three
        models ``habits`` (absent kinds whose partner is there: what training data taught to add) and ``misses``
        (other absent kinds: something was taken for something else) per 100 held-out descriptions.
    """
    scenes = {Path(file).stem: scene for file, scene in read_scenes(options.out / "world").items()}
    accuracies = {
        name: truth_accuracy(options, name, scenes) for name, facts in demo.MODELS.items() if facts is not None
    }
    causes = {}
    for name in demo.MODELS:
        described = json.loads((options.out / name / "scores.json").read_text(encoding="utf-8"))["descriptions"]
        counts: Counter[str] = Counter()
        for file, text in described.items():
            scene = scenes[Path(file).stem]
            absent = chair_counts(text, scene)[1]
            counts.update("habits" if PARTNER[kind] in present_kinds(scene) else "misses" for kind in absent)
        causes[name] = {cause: 100 * counts[cause] / len(described) for cause in ("habits", "misses")}
    return {"truth_accuracy": accuracies, "causes": causes}


def truth_accuracy(options: demo.Options, name: str, scenes: dict[str, Scene]) -> dict[str, float]:
    """Of one reward model; ``accuracy`` and the number of ``pairs``."""
    asked = demo.reward_options(options, name)
    pairs = [
        true
        for record in reward.read_pairs(asked)[-asked.held_out :]
        if (true := by_truth(record, scenes[Path(record.image).stem]))
    ]
    model = open_model("tiny")
    role = open_role(model, options.out / name / "reward" / "adapter")
    return {"accuracy": reward.pair_accuracy(asked, model, role, pairs), "pairs": len(pairs)}


def by_truth(record: Preference, scene: Scene) -> Preference | None:
    """The pair with the answer chosen that names fewer absent kinds; None where both name as many."""
    first, second = (len(chair_counts(answer, scene)[1]) for answer in record.answers)
    return None if first == second else dataclasses.replace(record, choice=int(second < first))
