"""MMBench (Liu et al. 2023): questions about images with up to a handful of options.

In a circular evaluation a question is asked once for each of its options, these rotated every time, and counts as right
if every answer is; otherwise it is asked once. Which option an answer means is read off by rules
(``option_letters.py``) of two public scorers:

    vlmevalkit  an answer in which they find nothing is wrong (there: ``exact_matching``)
    lmms-eval   an answer in which they find nothing is searched once more with looser ones (there: ``static``)

Both can hand such answers to a language model instead, and the benchmark's server does; a :data:`Matcher` is the place
for it. Questions about one image are not independent, so intervals resample images.
"""

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from jaxtyping import Float

from vlm_jax.evals.mmbench.files import Question, prompt
from vlm_jax.evals.reading.option_letters import Rule, find, robust
from vlm_jax.evals.statistics.bootstrap import Statistic, safe_ratio
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty, unit_counts

Mode = Rule
Second = Literal["own", "wrong", "static", "random"]

# From a question as it was asked, and an answer in which the rules find no letter, to a letter or None.
Matcher = Callable[[Question, str], str | None]

_SEED = 2680


def matcher(second: Second, mode: Mode) -> Matcher:
    """What is made of answers in which the rules find nothing.

    Args:
        second: ``own`` is what the mode's scorer does offline, ``wrong`` leaves them wrong, ``static`` looks for any
            letter in looser ways, ``random`` draws from A to E as lmms-eval does where its judge does not answer, with
            its seed.
        mode: Whose scorer.
    """
    if second == "own":
        second = "static" if mode == "lmms-eval" else "wrong"
    if second == "random":
        rng = random.Random(_SEED)
        return lambda question, answer: "ABCDE"[rng.randint(0, 4)]
    if second == "static":
        return lambda question, answer: robust(answer, list(question.lettered))
    return lambda question, answer: None


class _Reader:
    """Letters of the answers, by index; those that the rules do not find are matched when they are needed, once."""

    def __init__(self, answers: Sequence[str], asked: Sequence[Question], mode: Mode, match: Matcher):
        self.answers = {one.index: answer for one, answer in zip(asked, answers, strict=True)}
        self.found = {one.index: find(self.answers[one.index], one.lettered, mode) for one in asked}
        self.letters = {index: letter for index, letter in self.found.items() if letter}
        self.match = match

    def right(self, group: Sequence[Question]) -> bool:
        """Whether all answers of a group are; in the scorers' order: nothing is matched where a letter is wrong."""
        if any(self.found[one.index] not in (None, one.answer) for one in group):
            return False
        return all(self._letter(one) == one.answer for one in group)

    def _letter(self, one: Question) -> str | None:
        if one.index not in self.letters:
            self.letters[one.index] = self.match(one, self.answers[one.index])
        return self.letters[one.index]


def score(answers: Sequence[str], asked: Sequence[Question], mode: Mode, match: Matcher) -> Scored:
    """Score MMBench's answers.

    Args:
        answers: In the order of what was asked.
        asked: From :func:`vlm_jax.evals.mmbench.files.passes`.
        mode: Whose rules read the answers.
        match: What is made of answers in which these find nothing; from :func:`matcher`.

    Returns:
        ``accuracy``, 0 to 1; where questions were asked in rounds it is circular, and ``vanilla_accuracy`` that of the
        first round. No metrics where the right answers are hidden. ``unparsed`` counts answers, all rounds, in which
        the rules found nothing.

    Raises:
        ValueError: As many answers as questions are needed.
    """
    reader = _Reader(answers, asked, mode, match)
    groups: dict[int, list[Question]] = {}
    for one in asked:
        groups.setdefault(one.main, []).append(one)
    unparsed, empty = sum(letter is None for letter in reader.found.values()), count_empty(answers)
    if any(one.answer is None for one in asked):
        rows = [_row(group, reader) for group in groups.values()]
        nothing = Tally([], np.zeros((0, 1)), {})
        hidden = "the right answers are hidden: nothing is scored"
        return Scored({}, rows, unparsed, nothing, remarks=(hidden,), asked=len(asked), empty=empty)
    hits = _hits(groups, reader)
    found = _tally(groups, hits)
    return Scored(
        metrics=found.values(),
        per_sample=[
            {**_row(group, reader), **hits[index], "fault": 1.0 - hits[index]["accuracy"]}
            for index, group in groups.items()
        ],
        unparsed=unparsed,
        tally=found,
        tables=_tables(groups, hits),
        baselines={f"all {letter}": _constant(groups, letter) for letter in _letters(groups)},
        remarks=(_CIRCULAR if _circular(groups) else _VANILLA,),
        asked=len(asked),
        empty=empty,
    )


_CIRCULAR = "circular: right is a question that is right with every rotation of its options"
_VANILLA = "not circular: every question once"
_Groups = Mapping[int, Sequence[Question]]


def _circular(groups: _Groups) -> bool:
    return any(len(group) > 1 for group in groups.values())


def _letters(groups: _Groups) -> list[str]:
    return sorted({letter for group in groups.values() for letter in group[0].lettered})


def _hits(groups: _Groups, reader: _Reader) -> dict[int, dict[str, int]]:
    """Metric -> 1 or 0, for every question. Round by round: draws at random come in the scorers' order."""
    hits = {index: {"accuracy": int(reader.right(group))} for index, group in groups.items()}
    if _circular(groups):
        for index, group in groups.items():
            hits[index]["vanilla_accuracy"] = int(reader.right(group[:1]))
    return hits


def _constant(groups: _Groups, letter: str) -> dict[str, float]:
    asked = [one for group in groups.values() for one in group]
    reader = _Reader([letter] * len(asked), asked, "vlmevalkit", lambda question, answer: None)
    return _tally(groups, _hits(groups, reader)).values()


def _row(group: Sequence[Question], reader: _Reader) -> dict[str, Any]:
    first = group[0]
    return {
        "index": first.index,
        "question": prompt(first),
        "category": first.category,
        "l2_category": first.l2_category,
        "rounds": [
            {
                "index": one.index,
                "label": one.answer,
                "said": reader.letters.get(one.index),
                "answer": reader.answers[one.index],
            }
            for one in group
        ],
    }


def _tables(groups: _Groups, hits: Mapping[int, Mapping[str, int]]) -> dict[str, dict[str, dict[str, float | int]]]:
    """By category; by split where there is more than one, which VLMEvalKit reports apart."""
    kinds = {
        "by l2-category": {index: group[0].l2_category for index, group in groups.items()},
        "by category": {index: group[0].category for index, group in groups.items()},
        "by split": {index: group[0].split for index, group in groups.items()},
    }
    if len(set(kinds["by split"].values())) == 1:
        del kinds["by split"]
    return {title: _table(names, hits) for title, names in kinds.items() if any(names.values())}


def _table(names: Mapping[int, str], hits: Mapping[int, Mapping[str, int]]) -> dict[str, dict[str, float | int]]:
    apart: dict[str, list[Mapping[str, int]]] = {}
    for index, name in names.items():
        apart.setdefault(name, []).append(hits[index])
    return {
        name: {metric: sum(one[metric] for one in own) / len(own) for metric in own[0]} | {"questions": len(own)}
        for name, own in sorted(apart.items())
    }


def _tally(groups: _Groups, hits: Mapping[int, Mapping[str, int]]) -> Tally:
    """Units are images; a question without one is its own."""
    units = [str(index if group[0].image is None else group[0].image) for index, group in groups.items()]
    names = list(next(iter(hits.values())))
    rows = np.array([[1, *hits[index].values()] for index in groups], float)
    return Tally(*unit_counts(units, rows), {name: _rate(place) for place, name in enumerate(names, 1)})


def _rate(place: int) -> Statistic:
    def rate(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        return safe_ratio(sums[:, place], sums[:, 0])

    return rate
