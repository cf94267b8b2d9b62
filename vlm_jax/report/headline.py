"""The result in a sentence, the same words whether it is good or bad."""

from collections.abc import Mapping
from typing import Any

from vlm_jax.evals.chair import scorer as chair

# Changes that would be written as 0 are called none.
_EQUAL_SHARE = 0.005
_EQUAL_POINTS = 0.05


def headlines(models: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What every later model changed against the first one, the last model's sentence first.

    All models must have described the same images. One model alone is described by itself.
    """
    (start, base), *others = models.items()
    if not others:
        return [_alone(start, base["chair"])]
    return [compare(start, base["chair"], name, scores["chair"]) for name, scores in reversed(others)]


def compare(start: str, before: Mapping[str, Any], name: str, after: Mapping[str, Any]) -> str:
    """How ``name`` differs from ``start``, from the CHAIR scores of both."""
    rates = f"CHAIR_i {100 * before['chair_i']:.1f} % to {100 * after['chair_i']:.1f} %"
    sentence = (
        f"{_capital(name)} {_absent(start, before['hallucinated'], after['hallucinated'])} ({rates}); "
        f"{_recall(before['recall'], after['recall'])}."
    )
    if before["hallucinated"] == after["hallucinated"]:
        return sentence
    low, high = chair.change_interval(before, after)
    chance = ", so it may be chance" if low <= 0 <= high else ""
    return (
        f"{sentence} The change of CHAIR_i has the 95 % interval [{100 * low:+.1f}, {100 * high:+.1f}] points{chance}."
    )


def _absent(start: str, before: int, after: int) -> str:
    if before == after:
        return f"names as many absent objects as {start}"
    if before == 0:
        return f"names {after} absent objects where {start} names none"
    change = after / before - 1
    if abs(change) < _EQUAL_SHARE:
        return f"names about as many absent objects as {start}"
    return f"names {100 * abs(change):.0f} % {'fewer' if change < 0 else 'more'} absent objects than {start}"


def _recall(before: float, after: float) -> str:
    points = 100 * (after - before)
    if abs(points) < _EQUAL_POINTS:
        return f"recall stayed at {100 * after:.1f} %"
    return f"recall changed by {points:+.1f} points to {100 * after:.1f} %"


def _alone(name: str, chair: Mapping[str, Any]) -> str:
    return (
        f"Of the objects that {name} names, {100 * chair['chair_i']:.1f} % are not in the picture; "
        f"it names {100 * chair['recall']:.1f} % of those that are."
    )


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]
