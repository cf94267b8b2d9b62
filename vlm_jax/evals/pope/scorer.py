"""POPE (Li et al. 2023): yes/no questions about single objects, half of them absent. Yes is positive.

Five ways to read an answer are in use, and they disagree on anything but a bare "Yes" or "No":

    official    POPE's ``evaluate.py``, also LLaVA's ``eval_pope.py``
    lmms-eval   the label exactly, in any case; neither is wrong, and left out of recall; the yes rate is the labels'
    vlmevalkit  one of the words yes and no, not both; neither is wrong, and counts as not yes in recall
    opera       OPERA's ``pope_eval.py``: a word that denies, anywhere in the answer
    vcd         VCD's ``eval_pope.py``: the label as a part of the answer, so that the label decides what is read

Questions about one image are not independent, so intervals resample images.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from vlm_jax.evals.pope.files import Question
from vlm_jax.evals.reading.punctuation import LONE_PERIOD, strip_punctuation
from vlm_jax.evals.statistics.bootstrap import Statistic, safe_ratio
from vlm_jax.evals.statistics.tally import Rows, Scored, Tally, count_empty, unit_counts

Mode = Literal["official", "lmms-eval", "vlmevalkit", "opera", "vcd"]
MODES: tuple[Mode, ...] = get_args(Mode)


def parse(answer: str, mode: Mode = "official", label: str = "yes") -> str | None:
    """yes or no, as a scorer reads it; None where it reads neither (lmms-eval and vlmevalkit).

    Args:
        answer: What the model said.
        mode: Whose rule.
        label: The right answer, which VCD's rule looks at.
    """
    return _RULES[mode](answer, label)


def _official(answer: str, label: str) -> str:
    # The first sentence without its commas; line breaks and other marks stay at their words.
    return _deny({"No", "not", "no"}, answer.partition(".")[0].replace(",", "").split(" "))


def _opera(answer: str, label: str) -> str:
    words = answer.replace(".", "").replace(",", "").split(" ")
    return "no" if any(word.endswith("n't") for word in words) else _deny({"No", "not", "no", "NO"}, words)


def _deny(words: set[str], said: Sequence[str]) -> str:
    return "yes" if words.isdisjoint(said) else "no"


def _lmms_eval(answer: str, label: str) -> str | None:
    said = answer.lower().strip()
    return said if said in ("yes", "no") else None


def _vlmevalkit(answer: str, label: str) -> str | None:
    said = {"yes", "no"} & set(strip_punctuation(answer.lower(), LONE_PERIOD).split())
    return said.pop() if len(said) == 1 else None


def _vcd(answer: str, label: str) -> str:
    other = "no" if label == "yes" else "yes"
    return label if label in answer.lower().strip() else other


_RULES = {
    "official": _official,
    "lmms-eval": _lmms_eval,
    "vlmevalkit": _vlmevalkit,
    "opera": _opera,
    "vcd": _vcd,
}


# What the counts of an image are: by label, answers of yes, of no, and of neither.
_TP, _FP, _FN, _TN, _NEITHER_YES, _NEITHER_NO = range(6)
_CELLS = {
    ("yes", "yes"): _TP,
    ("yes", "no"): _FP,
    ("no", "yes"): _FN,
    ("no", "no"): _TN,
    (None, "yes"): _NEITHER_YES,
    (None, "no"): _NEITHER_NO,
}


def confusion(
    said: Sequence[str | None], labels: Sequence[str], images: Sequence[str]
) -> tuple[list[str], Float[np.ndarray, "n 6"]]:
    """True and false positives, false and true negatives (yes is positive), and neither where yes and no was right, of
    each image; images in the order of their names.

    Raises:
        ValueError: The lists differ in length or a label is neither yes nor no.
    """
    if not len(said) == len(labels) == len(images) or set(labels) - {"yes", "no"}:
        raise ValueError(
            f"POPE needs one yes/no label and one image an answer, got {len(said)} answers, {len(images)} images "
            f"and {len(labels)} labels {set(labels)}"
        )
    cells = np.array([_CELLS[pair] for pair in zip(said, labels, strict=True)], np.int64)
    return unit_counts(images, np.eye(6)[cells])


def tally(units: Sequence[str], *settings: Float[np.ndarray, "n 6"], mode: Mode = "official") -> Tally:
    """Accuracy, precision, recall, F1 and the share of yes answers, from the :func:`confusion` of one setting or, as
    means over settings, of several about the same images; a ratio without a denominator is 0."""
    return Tally(units, np.concatenate(settings, 1), _FIGURES[mode])


def score(answers: Sequence[str], questions: Sequence[Question], mode: Mode = "official") -> Scored:
    """One setting of POPE.

    Args:
        answers: In the order of the questions.
        questions: From ``files.read_questions``.
        mode: Whose rule reads the answers.

    Returns:
        ``accuracy``, ``precision``, ``recall``, ``f1``, ``yes_rate`` and the four counts. ``unparsed`` counts the
        answers in which the rule reads neither, and those that have no word for yes or no in any spelling, whichever
        side the rule puts them on.

    Raises:
        ValueError: As many answers as questions are needed.
    """
    labels, images = [one.label for one in questions], [one.image for one in questions]
    pairs = list(zip(answers, labels, strict=True))
    # A million short answers are a few.
    read = {pair: parse(pair[0], mode, pair[1]) for pair in set(pairs)}
    said = [read[pair] for pair in pairs]
    units, counts = confusion(said, labels, images)
    found, total = tally(units, counts, mode=mode), counts.sum(0).astype(int)
    names = {"true_positives": _TP, "false_positives": _FP, "true_negatives": _TN, "false_negatives": _FN}
    return Scored(
        metrics=found.values() | {name: int(total[place]) for name, place in names.items()},
        per_sample=Rows(len(questions), lambda place: _row(questions[place], said[place], answers[place])),
        empty=count_empty(answers),
        unparsed=sum(count for pair, count in Counter(pairs).items() if is_unparsed(pair[0], read[pair])),
        tally=found,
        baselines={f"all {word}": _constant(word, labels, mode) for word in ("yes", "no")},
        remarks=tuple(_remarks(said.count(None), mode)),
    )


def _remarks(neither: int, mode: Mode) -> Iterator[str]:
    if mode == "lmms-eval":
        yield "the yes rate is the labels', as lmms-eval has it"
    if neither:
        counted = "and left out of precision, recall and F1" if mode == "lmms-eval" else "and misses in recall and F1"
        yield f"{neither} answers are neither yes nor no to {mode}'s rule: wrong, {counted}; no count has them"


def _row(one: Question, word: str | None, answer: str) -> dict[str, Any]:
    fault = float(word != one.label)
    asked = {"id": one.id, "image": one.image, "question": one.text, "label": one.label}
    return asked | {"said": word, "answer": answer, "fault": fault}


def is_unparsed(answer: str, word: str | None) -> bool:
    """Whether nothing was read in an answer (``word`` is None), or no word for yes or no stands in it."""
    return word is None or not _YES_OR_NO.search(answer)


_YES_OR_NO = re.compile(r"\b(yes|no|not)\b|n't\b", re.IGNORECASE)


def _constant(word: str, labels: Sequence[str], mode: Mode) -> dict[str, float]:
    units, counts = confusion([word] * len(labels), labels, ["all"] * len(labels))
    return tally(units, counts, mode=mode).values()


def _mean_rate(top: Sequence[int], bottom: Sequence[int]) -> Statistic:
    """Mean over settings of a ratio of weighted sums of the six counts."""

    def rate(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        each = sums.reshape(len(sums), -1, 6)
        return safe_ratio(each @ np.array(top, float), each @ np.array(bottom, float)).mean(1)

    return rate


def _figures(missed: int, yes: Sequence[int]) -> dict[str, Statistic]:
    """Weights of (TP, FP, FN, TN, neither where yes was right, neither where no was right) above and below.

    Args:
        missed: Whether a neither where yes was right counts as missed.
        yes: What counts as a yes answer.
    """
    everything = (1, 1, 1, 1, 1, 1)
    return {
        "accuracy": _mean_rate((1, 0, 0, 1, 0, 0), everything),
        "precision": _mean_rate((1, 0, 0, 0, 0, 0), (1, 1, 0, 0, 0, 0)),
        "recall": _mean_rate((1, 0, 0, 0, 0, 0), (1, 0, 1, 0, missed, 0)),
        # 2 TP / (2 TP + FP + FN), the harmonic mean of precision and recall.
        "f1": _mean_rate((2, 0, 0, 0, 0, 0), (2, 1, 1, 0, missed, 0)),
        "yes_rate": _mean_rate(yes, everything),
    }


_SAID_YES, _LABELLED_YES = (1, 1, 0, 0, 0, 0), (1, 0, 1, 0, 1, 0)
_FIGURES: dict[Mode, dict[str, Statistic]] = {
    mode: _figures(mode != "lmms-eval", _LABELLED_YES if mode == "lmms-eval" else _SAID_YES) for mode in MODES
}
