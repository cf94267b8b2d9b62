"""POPE's yes/no rows over a set of scenes, by the rule its authors document.

For three present kinds of each image: one row that asks for the kind, one that asks for a kind that is neither present
nor asked before. The settings differ in how that kind is picked: at random, the most frequent one, the one that most
often accompanies the present kind, or (our addition) the partner that training images pair it with. Frequencies are
counted on the images that are asked about.
"""

import collections
from collections.abc import Mapping

import numpy as np

from vlm_jax.scenes.questions import existence_question
from vlm_jax.scenes.world import KINDS, PARTNER, Scene

OFFICIAL = ("random", "popular", "adversarial")
SETTINGS = (*OFFICIAL, "partner")
PER_IMAGE = 3


def pope_rows(scenes: Mapping[str, Scene], rng: np.random.Generator, images: int = 500) -> dict[str, list[dict]]:
    """Rows (question_id, image, text, label) of each setting; ``scenes`` is keyed by file name."""
    # Order of appearance stands in for the order of the annotation file.
    kinds = {name: list(dict.fromkeys(t.kind for t in scene.things)) for name, scene in scenes.items()}
    eligible = [name for name in kinds if len(kinds[name]) >= PER_IMAGE]
    chosen = [eligible[i] for i in rng.permutation(len(eligible))[:images]]
    asked = {name: kinds[name] for name in chosen}
    frequency = collections.Counter(kind for present in asked.values() for kind in present)
    together = collections.Counter((a, b) for present in asked.values() for a in present for b in present if a != b)
    rankings = {
        "random": lambda positive: [],
        "popular": lambda positive: sorted(frequency, key=lambda k: -frequency[k]),
        "adversarial": lambda positive: sorted(
            (k for k in frequency if together[positive, k]), key=lambda k: -together[positive, k]
        ),
        "partner": lambda positive: [PARTNER[positive]],
    }
    return {setting: _rows(asked, rankings[setting], rng) for setting in SETTINGS}


def _rows(asked: dict[str, list[str]], ranking, rng: np.random.Generator) -> list[dict]:
    rows: list[dict] = []
    for name, present in asked.items():
        excluded = set(present)
        for positive in present[:PER_IMAGE]:
            candidates = [kind for kind in ranking(positive) if kind not in excluded]
            if not candidates:
                candidates = [str(kind) for kind in rng.permutation([k for k in KINDS if k not in excluded])]
            excluded.add(candidates[0])
            rows += [
                _row(len(rows) + 1, name, positive, True),
                _row(len(rows) + 2, name, candidates[0], False),
            ]
    return rows


def _row(question_id: int, image: str, kind: str, present: bool) -> dict:
    text = existence_question(kind, present).text
    return {"question_id": question_id, "image": image, "text": text, "label": "yes" if present else "no"}
