"""HallusionBench (Guan et al. 2023): yes/no questions about figures, their edited twins, and without any figure.

Every question is asked about several figures of one set (edited, or for visual supplement also none at all), and
several questions are asked about every figure. From a verdict on each answer (0 wrong, 1 right, 2 unclear):

    a_acc            right answers / answers
    f_acc            figures with right answers alone / figures; "no figure" is none
    q_acc            questions right about all their figures / questions
    easy_group_acc   q_acc over the answers about original figures or none (``visual_input`` 0 or 1)
    hard_group_acc   q_acc over the answers about edited figures (``visual_input`` 2)

The last two are what the leaderboard calls Easy aAcc and Hard aAcc. They are no accuracies over answers: its 49.67 for
LLaVA-1.5 is 226 of 455 questions. An unclear answer is right where visual supplement has no figure (VS, figure 0) and
wrong elsewhere. Accuracies are in percent, rounded to four decimals as in the official ``evaluation.py``.

    official    verdicts of a language model that compared an answer with the reference, read from its file
    rule        yes or no, as VLMEvalKit reads them: the right one is 1, the other 0, neither or both 2. Not the
                official judge, and not comparable with published figures, which come from free answers

The official script also reports how much a model tends to say yes: ``yes_percentage_difference`` (share of answers
that amount to yes less share of questions whose answer is yes) and ``false_positive_ratio`` (wrong answers where no was
right / wrong answers; 0 where none is wrong). With a second judgement (``same``: does an answer agree with the one
about figure 0?) it tells causes of wrong answers apart: language, sight, either.

Questions and figures of a set belong together, so intervals resample sets.
"""

from collections.abc import Iterable, Sequence
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float

from vlm_jax.evals.hallusionbench.files import Question
from vlm_jax.evals.hallusionbench.verdicts import RIGHT, UNCLEAR, WRONG, by_rule, causes, is_right
from vlm_jax.evals.statistics.bootstrap import Statistic, safe_ratio
from vlm_jax.evals.statistics.tally import Scored, Tally, count_empty

Mode = Literal["official", "rule"]
MODES: tuple[Mode, ...] = get_args(Mode)

# What is counted of a set. Of every kind of part (an answer, a figure, a question about all, easy or hard figures) how
# many there are and how many are right throughout; then what the diagnoses need.
_PARTS = ("answers", "figures", "questions", "easy", "hard")
_REST = ("figures wrong", "figure score", "said yes", "is yes", "wrong", "wrong no", "language", "sight", "either")
_COLUMNS = {name: place for place, name in enumerate([*_PARTS, *(f"{part} right" for part in _PARTS), *_REST])}
_ACCURACIES = {
    "a_acc": "answers",
    "f_acc": "figures",
    "q_acc": "questions",
    "easy_group_acc": "easy",
    "hard_group_acc": "hard",
}
_CAUSES = {"language_hallucination": "language", "visual_illusion": "sight", "mixed": "either"}


def counts(
    questions: Sequence[Question], verdicts: Sequence[int], same: Sequence[bool] | None = None
) -> tuple[list[str], Float[np.ndarray, "n 19"]]:
    """Sums of each set, sets in the order of their names.

    Args:
        questions: From ``read_questions``.
        verdicts: 0, 1 or 2 on the answer to each.
        same: Whether each answer agrees with the one about figure 0; without it no causes are counted.

    Raises:
        ValueError: The lists differ in length.
        InputError: With ``same``, a question that is not asked about figure 0.
    """
    if not len(questions) == len(verdicts) == len(questions if same is None else same):
        raise ValueError(f"HallusionBench needs a verdict a question, got {len(verdicts)} and {len(questions)}")
    sets, home = np.unique([question.set for question in questions], return_inverse=True)
    table = np.zeros((len(sets), len(_COLUMNS)))

    def add(column: str, places: np.ndarray, amounts: np.ndarray) -> None:
        table[:, _COLUMNS[column]] += np.bincount(places, amounts, len(sets))

    right = np.array([is_right(question, judged) for question, judged in zip(questions, verdicts, strict=True)], bool)
    yes = np.array([question.label == "yes" for question in questions], bool)
    for column, amounts in {
        "said yes": right == yes,
        "is yes": yes,
        "wrong": ~right,
        "wrong no": ~right & ~yes,
    }.items():
        add(column, home, amounts)
    for part, (names, there) in _parts(questions).items():
        _, first, code = np.unique(names[there], return_index=True, return_inverse=True)
        share = np.bincount(code, right[there]) / np.bincount(code)
        add(part, home[there][first], np.ones(len(first)))
        add(f"{part} right", home[there][first], share == 1)
        if part == "figures":
            add("figures wrong", home[there][first], share == 0)
            add("figure score", home[there][first], share)
    why = np.array(causes(questions, verdicts, same), object)
    for cause in _CAUSES.values():
        add(cause, home, why == cause)
    return sets.tolist(), table


def _parts(questions: Sequence[Question]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """For every kind of part, which one each answer is in, and whether it is in any."""
    answers, groups, figures = (
        np.array([name(question) for question in questions], str)
        for name in (lambda one: one.id, lambda one: one.group, lambda one: one.figure)
    )
    edited = np.array([question.visual_input == 2 for question in questions], bool)
    shown = np.array([not question.without_figure for question in questions], bool)
    return {
        "answers": (answers, np.ones(len(questions), bool)),
        "figures": (figures, shown),
        "questions": (groups, np.ones(len(questions), bool)),
        "easy": (groups, ~edited),
        "hard": (groups, edited),
    }


def _ratio(top: str, bottom: str, scale: int = 1) -> Statistic:
    return lambda sums: safe_ratio(scale * sums[:, _COLUMNS[top]], sums[:, _COLUMNS[bottom]])


def _share_of_causes(cause: str) -> Statistic:
    def share(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
        every = sum(sums[:, _COLUMNS[name]] for name in _CAUSES.values())
        return safe_ratio(100 * sums[:, _COLUMNS[cause]], every)

    return share


def _more_yes(sums: Float[np.ndarray, "r k"]) -> Float[np.ndarray, " r"]:
    return _ratio("said yes", "answers")(sums) - _ratio("is yes", "answers")(sums)


_PERCENT = {name: _ratio(f"{part} right", part, 100) for name, part in _ACCURACIES.items()}
_FIGURES: dict[str, Statistic] = {
    **_PERCENT,
    "figure_score": _ratio("figure score", "figures"),
    "yes_percentage_difference": _more_yes,
    "false_positive_ratio": _ratio("wrong no", "wrong"),
}
_DIAGNOSES = {name: _share_of_causes(cause) for name, cause in _CAUSES.items()}
_UNROUNDED = ("yes_percentage_difference", "false_positive_ratio")


def score(
    answers: Sequence[str],
    questions: Sequence[Question],
    mode: Mode = "official",
    verdicts: Sequence[int] | None = None,
    same: Sequence[bool] | None = None,
) -> Scored:
    """All that the official script reports.

    Args:
        answers: In the order of the questions.
        questions: From ``read_questions``.
        mode: Who judged.
        verdicts: The judge's, needed by ``official`` alone.
        same: Whether each answer agrees with the one about figure 0, for the causes of wrong answers.

    Returns:
        The five accuracies, ``figure_score`` (mean share of right answers about a figure), the two diagnoses of yes,
        ``unclear`` (answers); with ``same`` ``language_hallucination``, ``visual_illusion`` and ``mixed``, percent of
        wrong answers. ``unparsed`` counts answers in which the rule reads nothing, or that are empty.

    Raises:
        ValueError: The lists differ in length, verdicts are lacking or are not 0, 1 or 2.
        InputError: With ``same``, a question that is not asked about figure 0.
    """
    if mode == "rule":
        verdicts = [by_rule(answer, one.label) for answer, one in zip(answers, questions, strict=True)]
    if verdicts is None or set(verdicts) - {WRONG, RIGHT, UNCLEAR} or len(answers) != len(questions):
        raise ValueError(f"HallusionBench needs an answer and a verdict 0, 1 or 2 a question, got {len(answers)}")
    sets, table = counts(questions, verdicts, same)
    found = Tally(sets, table, _FIGURES if same is None else _FIGURES | _DIAGNOSES)
    why = causes(questions, verdicts, same)
    return Scored(
        metrics=_rounded(found) | {"unclear": list(verdicts).count(UNCLEAR)},
        per_sample=[
            {
                "id": one.id,
                "question": one.text,
                "label": one.label,
                "verdict": judged,
                "right": int(is_right(one, judged)),
                "cause": cause,
                "answer": answer,
                "fault": float(not is_right(one, judged)),
            }
            for one, judged, cause, answer in zip(questions, verdicts, why, answers, strict=True)
        ],
        empty=count_empty(answers),
        unparsed=list(verdicts).count(UNCLEAR) if mode == "rule" else sum(not answer.strip() for answer in answers),
        tally=found,
        tables=_tables(sets, table) | ({} if same is None else _tables_of_causes(questions, why)),
        baselines={f"all {word}": _constant(word, questions) for word in ("yes", "no", "unclear")},
        remarks=tuple(_remarks(mode, same is not None)),
    )


def _rounded(found: Tally) -> dict[str, float]:
    return {name: value if name in _UNROUNDED else round(value, 4) for name, value in found.values().items()}


def _constant(word: str, questions: Sequence[Question]) -> dict[str, float]:
    sets, table = counts(questions, [by_rule(word, one.label) for one in questions])
    return _rounded(Tally(sets, table, _FIGURES))


def _tables(sets: Sequence[str], table: Float[np.ndarray, "n k"]) -> dict[str, dict[str, dict[str, float | int]]]:
    total = table.sum(0)
    levels = {"by category": [name[:2] for name in sets], "by subcategory": [name.rpartition("_")[0] for name in sets]}
    tables: dict[str, dict[str, dict[str, float | int]]] = {title: {} for title in levels}
    for title, names in levels.items():
        for name in dict.fromkeys(names):
            part = table[[other == name for other in names]]
            tables[title][name] = _rounded(Tally(sets, part, _PERCENT)) | {"answers": int(part[:, 0].sum())}
    whole, wrong, figures = (int(total[_COLUMNS[name]]) for name in ("figures right", "figures wrong", "figures"))
    tables["answers about a figure"] = {
        name: {"figures": number, "percent": round(100 * number / max(figures, 1), 4)}
        for name, number in {"right": whole, "inconsistent": figures - whole - wrong, "wrong": wrong}.items()
    }
    tables["right of all"] = {
        name: {"right": int(total[_COLUMNS[f"{part} right"]]), "all": int(total[_COLUMNS[part]])}
        for name, part in _ACCURACIES.items()
    }
    return tables


def _tables_of_causes(
    questions: Sequence[Question], why: Sequence[str | None]
) -> dict[str, dict[str, dict[str, float | int]]]:
    """How many answers have each cause, and how many questions: with several causes a question is mixed."""
    groups: dict[str, set[str]] = {}
    for question, cause in zip(questions, why, strict=True):
        if cause is not None:
            groups.setdefault(question.group, set()).add(cause)
    main = ["either" if len(found) > 1 else next(iter(found)) for found in groups.values()]
    return {
        "causes of wrong answers": {
            name: {"answers": list(why).count(cause), "questions": main.count(cause)} for name, cause in _CAUSES.items()
        }
    }


def _remarks(mode: Mode, diagnosed: bool) -> Iterable[str]:
    if mode == "rule":
        yield "verdicts by a rule, not by the official judge; not comparable with published figures"
    yield "easy_group_acc and hard_group_acc are what the leaderboard calls Easy and Hard aAcc: questions, not answers"
    if not diagnosed:
        yield "without a second judgement (same) the causes of wrong answers are not known"
