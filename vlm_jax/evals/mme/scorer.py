"""MME (Fu et al. 2023): two yes/no questions about every image, one of them with no for an answer, in 14 subtasks.

    accuracy         right answers / questions
    accuracy_plus    images with two right answers / images
    score            of a subtask, 100 x (accuracy + accuracy+), at most 200
    perception       sum over ten subtasks, at most 2000
    cognition        sum over four subtasks, at most 800
    hallucination    sum over existence, count, position and color, as VCD (Leng et al. 2023) has it, at most 800

Exactly as MME's ``calculation.py``, which reads the first four characters of an answer in lower case: yes if "yes" is
among them, else no if "no" is (so "Not", "know" and "now" are no), else neither, which is wrong. Spaces in front count.
The script takes two lines in succession for one image; here it is the image's name that makes the pair.

Intervals resample images.
"""

from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
from jaxtyping import Float

from vlm_jax.errors import InputError
from vlm_jax.evals.mme.files import Question
from vlm_jax.evals.statistics.bootstrap import Statistic, safe_ratio
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty, unit_counts

PERCEPTION = "existence count position color posters celebrity scene landmark artwork OCR".split()
COGNITION = "commonsense_reasoning numerical_calculation text_translation code_reasoning".split()
_SUMS = {"perception": PERCEPTION, "cognition": COGNITION, "hallucination": PERCEPTION[:4]}
_ORDER = [*PERCEPTION, *COGNITION]
_START = 4  # Characters that are read.


def parse(answer: str) -> str | None:
    """yes, no, or None for neither."""
    start = answer.lower()[:_START]
    return next((word for word in ("yes", "no") if word in start), None)


def score(answers: Sequence[str], questions: Sequence[Question]) -> Scored:
    """Everything that ``calculation.py`` prints.

    Args:
        answers: In the order of the questions.
        questions: From ``read_questions``; two an image.

    Returns:
        ``perception``, ``cognition`` and ``hallucination``, those whose subtasks are all there; over whatever is there
        ``score`` (sum over subtasks), ``accuracy`` and ``accuracy_plus``; a table of subtasks. ``unparsed`` counts the
        answers that are neither.

    Raises:
        ValueError: As many answers as questions are needed.
        InputError: An image has one question, or three.
    """
    said = [parse(answer) for answer in answers]
    there = dict.fromkeys(question.subtask for question in questions)
    subtasks = [name for name in _ORDER if name in there] + [name for name in there if name not in _ORDER]
    units, rows = counts(said, questions, subtasks)
    found = Tally(units, rows, statistics(subtasks))
    return Scored(
        metrics=found.values(),
        per_sample=[
            {
                "id": one.id,
                "subtask": one.subtask,
                "image": one.image,
                "question": one.text,
                "label": one.label,
                "said": word,
                "answer": answer,
                "fault": float(word != one.label),
            }
            for one, word, answer in zip(questions, said, answers, strict=True)
        ],
        empty=count_empty(answers),
        unparsed=said.count(None),
        tally=found,
        tables={"subtasks": _table(rows.sum(0), said, questions, subtasks)},
        baselines={f"all {word}": _constant(word, questions, subtasks) for word in ("yes", "no")},
        remarks=tuple(_remarks(subtasks)),
    )


def counts(
    said: Sequence[str | None], questions: Sequence[Question], subtasks: Sequence[str]
) -> tuple[list[str], Float[np.ndarray, "n k"]]:
    """Of each image, by subtask: right answers, two right answers, one. Images in the order of their names.

    Raises:
        ValueError: The lists differ in length.
        InputError: An image has one question, or three.
    """
    right: dict[tuple[str, str], list[bool]] = {}
    for question, word in zip(questions, said, strict=True):
        right.setdefault((question.subtask, question.image), []).append(word == question.label)
    if odd := [(key, len(found)) for key, found in right.items() if len(found) != 2]:
        (subtask, image), number = odd[0]
        raise InputError(f"{number} questions about image {image} of {subtask}", "two about every image")
    table, column = np.zeros((len(right), 3 * len(subtasks))), {name: 3 * at for at, name in enumerate(subtasks)}
    for row, ((subtask, _), found) in zip(table, right.items(), strict=True):
        row[column[subtask] : column[subtask] + 3] = sum(found), all(found), 1
    return unit_counts([f"{subtask}/{image}" for subtask, image in right], table)


def statistics(subtasks: Sequence[str]) -> dict[str, Statistic]:
    """The figures from sums of :func:`counts`; a sum over subtasks only where it has all of them."""
    at = {name: 3 * place for place, name in enumerate(subtasks)}

    def summed(names: Sequence[str]) -> Statistic:
        def total(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
            # In the script's order, so that the last digit is the same.
            found = np.zeros(len(sums))
            for name in names:
                accuracy, plus = _accuracies(sums[:, at[name] : at[name] + 3])
                found += accuracy * 100 + plus * 100
            return found

        return total

    def overall(which: int) -> Statistic:
        return lambda sums: _accuracies(sums.reshape(len(sums), -1, 3).sum(1))[which]

    sums = {name: summed(names) for name, names in _SUMS.items() if at.keys() >= set(names)}
    return sums | {"score": summed(subtasks), "accuracy": overall(0), "accuracy_plus": overall(1)}


def _accuracies(sums: Float[np.ndarray, "r 3"]) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, " r"]]:
    """Accuracy and accuracy+ from right answers, images with two and images."""
    return safe_ratio(sums[:, 0], 2 * sums[:, 2]), safe_ratio(sums[:, 1], sums[:, 2])


def _table(
    sums: Float[np.ndarray, " k"], said: Sequence[str | None], questions: Sequence[Question], subtasks: Sequence[str]
) -> dict[str, dict[str, float | int]]:
    neither = Counter(question.subtask for question, word in zip(questions, said, strict=True) if word is None)
    table = {}
    for name, part in zip(subtasks, sums.reshape(-1, 3), strict=True):
        accuracy, plus = (float(value[0]) for value in _accuracies(part[None]))
        table[name] = {
            "score": accuracy * 100 + plus * 100,
            "accuracy": accuracy,
            "accuracy_plus": plus,
            "images": int(part[2]),
            "neither": neither[name],
        }
    return table


def _constant(word: str, questions: Sequence[Question], subtasks: Sequence[str]) -> dict[str, float]:
    units, rows = counts([word] * len(questions), questions, subtasks)
    return Tally(units, rows, statistics(subtasks)).values()


def _remarks(subtasks: Sequence[str]) -> Iterator[str]:
    for name, needed in _SUMS.items():
        lacking = [one for one in needed if one not in subtasks]
        if lacking and len(lacking) < len(needed):
            yield f"no {name}: {', '.join(lacking)} of its {len(needed)} subtasks are not there"
    if strange := [name for name in subtasks if name not in _ORDER]:
        yield f"{', '.join(strange)}: no subtask of MME"
