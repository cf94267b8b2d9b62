"""A pair of answers as it is put before a comparer, and what the comparer says."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from vlm_jax.data.conversation import Turn
from vlm_jax.data.sources import Preference

Verdict = Literal["first", "second", "tie"]
PLACES: tuple[Verdict, Verdict] = ("first", "second")
_EXCHANGED: dict[Verdict, Verdict] = {"first": "second", "second": "first", "tie": "tie"}


@dataclasses.dataclass(frozen=True, slots=True)
class Trial:
    """One pair.

    Attributes:
        id: Of the pair.
        image: None for a pair without one.
        turns: The conversation; ends with the question.
        answers: To the question.
        gold: Index of the better answer; None where nobody knows.
        facts: Captions of the image, for reward models that read them.
        notes: A sentence about each answer, or nothing. A judge's prompt has it beside the answer; a reward model,
            which has no prompt to put it into, reads it at the answer's end.
        reasoned: Whether the judge is told to reason before its verdict.
    """

    id: str
    image: Path | None
    turns: tuple[Turn, ...]
    answers: tuple[str, str]
    gold: int | None = None
    facts: tuple[str, ...] | None = None
    notes: tuple[str, str] = ("", "")
    reasoned: bool = False

    def exchanged(self) -> "Trial":
        """The answers in each other's place."""
        gold = None if self.gold is None else 1 - self.gold
        return dataclasses.replace(self, answers=self.answers[::-1], notes=self.notes[::-1], gold=gold)

    def with_answer(self, side: int, text: str) -> "Trial":
        return dataclasses.replace(self, answers=_put(self.answers, side, text))

    def with_note(self, side: int, text: str) -> "Trial":
        return dataclasses.replace(self, notes=_put(self.notes, side, text))


# Verdicts in the order of the trials; None where there is none to read.
Comparer = Callable[[Sequence[Trial]], Sequence[Verdict | None]]


def trial_of(pair: Preference) -> Trial:
    """A pair of LLaVA-RLHF's files; the annotators' choice is gold."""
    return Trial(pair.id, pair.image, pair.turns, pair.answers, pair.choice, pair.facts)


def exchange(verdict: Verdict | None) -> Verdict | None:
    """What a verdict on an exchanged pair says of the pair."""
    return None if verdict is None else _EXCHANGED[verdict]


def _put(pair: tuple[str, str], side: int, text: str) -> tuple[str, str]:
    return (text, pair[1]) if side == 0 else (pair[0], text)
