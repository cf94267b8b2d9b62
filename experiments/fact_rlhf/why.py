"""Where the gain from facts goes: what each reward model knows, and which hallucinations each policy gave up."""

import dataclasses
import json
from collections import Counter
from pathlib import Path

from vlm_jax.checkpoints.opening import open_model, open_role
from vlm_jax.commands import demo, reward
from vlm_jax.data.sources import Preference
from vlm_jax.scenes.files import read_scenes
from vlm_jax.scenes.truth import chair_counts, mentioned_kinds
from vlm_jax.scenes.world import PARTNER, Scene, absent_kinds, present_kinds


def explain(options: demo.Options) -> dict:
    """What a finished comparison's folder tells beside its scores.

    Returns:
        ``truth_accuracy`` of both reward models (:func:`truth_accuracy`), and of ``counting``, a rule that sees nothing
        and prefers the answer that names fewer kinds; and for the three models ``habits`` (absent kinds whose partner
        is there: what training data taught to add), how many of those an absent kind drawn at random would be
        (``by_chance``), and ``misses`` (other absent kinds: something was taken for something else), per 100 held-out
        descriptions.
    """
    scenes = {Path(file).stem: scene for file, scene in read_scenes(options.out / "world").items()}
    trained = list(demo.ALIGNED)
    accuracies = {name: truth_accuracy(options, name, scenes) for name in trained}
    asked = reward.complete(demo.reward_options(options, trained[0]))
    accuracies["counting"] = counting_accuracy(true_pairs(asked, scenes))
    causes = {}
    for name in demo.MODELS:
        described = json.loads((options.out / name / "scores.json").read_text(encoding="utf-8"))["descriptions"]
        counts: Counter[str] = Counter()
        for file, text in described.items():
            scene = scenes[Path(file).stem]
            possible = [PARTNER[kind] in present_kinds(scene) for kind in absent_kinds(scene)]
            for kind in chair_counts(text, scene)[1]:
                counts["habits" if PARTNER[kind] in present_kinds(scene) else "misses"] += 1
                counts["by_chance"] += sum(possible) / len(possible)
        causes[name] = {cause: 100 * counts[cause] / len(described) for cause in ("habits", "by_chance", "misses")}
    return {"truth_accuracy": accuracies, "causes": causes}


def true_pairs(asked: reward.Options, scenes: dict[str, Scene]) -> list[Preference]:
    """The held-out pairs whose answers name different numbers of absent kinds, the truer one chosen."""
    _, pairs = reward.split_pairs(asked, reward.read_pairs(asked))
    return [true for record in pairs if (true := by_truth(record, scenes[Path(record.image).stem]))]


def truth_accuracy(options: demo.Options, name: str, scenes: dict[str, Scene]) -> dict[str, float | int | None]:
    """How often a reward model scores the truer answer higher; annotators have no part in it.

    Returns:
        ``accuracy`` over ``pairs`` pairs, and ``equal_accuracy`` over those ``equal_pairs`` whose answers name equally
        many kinds, where counting does not help.
    """
    asked = reward.complete(demo.reward_options(options, name))
    pairs = true_pairs(asked, scenes)
    equal = [record for record in pairs if not named_more(record)]
    model = open_model("tiny")
    role = open_role(model, options.out / name / "reward" / "adapter")
    return {
        "accuracy": reward.pair_accuracy(asked, model, role, pairs),
        "pairs": len(pairs),
        "equal_accuracy": reward.pair_accuracy(asked, model, role, equal),
        "equal_pairs": len(equal),
    }


def counting_accuracy(pairs: list[Preference]) -> dict[str, float | int]:
    """Of preferring the answer that names fewer kinds; equal numbers count half."""
    right = [0.5 if not (more := named_more(record)) else float((more < 0) == bool(record.choice)) for record in pairs]
    return {"accuracy": sum(right) / len(right), "pairs": len(pairs)}


def named_more(record: Preference) -> int:
    """How many more kinds the second answer names than the first."""
    first, second = (len(set(mentioned_kinds(answer))) for answer in record.answers)
    return second - first


def by_truth(record: Preference, scene: Scene) -> Preference | None:
    """The pair with the answer chosen that names fewer absent kinds; None where both name as many."""
    first, second = (len(chair_counts(answer, scene)[1]) for answer in record.answers)
    return None if first == second else dataclasses.replace(record, choice=int(second < first))
