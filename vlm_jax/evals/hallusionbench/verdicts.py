"""HallusionBench's verdicts on answers: 0 wrong, 1 right, 2 unclear; and what made an answer wrong."""

from collections.abc import Sequence

from vlm_jax.errors import InputError
from vlm_jax.evals.hallusionbench.files import Question
from vlm_jax.evals.pope.scorer import parse

WRONG, RIGHT, UNCLEAR = range(3)


def by_rule(answer: str, label: str) -> int:
    """The rule's: 0 for the other word, 1 for the right one, 2 for neither or both."""
    said = parse(answer, "vlmevalkit")
    return UNCLEAR if said is None else int(said == label)


def is_right(question: Question, judged: int) -> bool:
    """Whether an answer counts: not to know is right where visual supplement has no figure."""
    return judged == RIGHT or (judged == UNCLEAR and question.without_figure)


def causes(questions: Sequence[Question], verdicts: Sequence[int], same: Sequence[bool] | None) -> list[str | None]:
    """What made each wrong answer wrong: language, sight or either (the script's LH, VI and Mix); None for the others,
    and for all without ``same``.

    Raises:
        InputError: A question that is not asked about figure 0.
    """
    if same is None:
        return [None] * len(questions)
    pairs = list(zip(questions, verdicts, strict=True))
    first = {question.group: judged for question, judged in pairs if question.figure_id == "0"}
    if lost := [question.group for question in questions if question.group not in first]:
        raise InputError(f"no question {lost[0]} about figure 0", "one, for causes of wrong answers")
    return [
        None if is_right(question, judged) else _cause(question, judged, first[question.group], agrees)
        for (question, judged), agrees in zip(pairs, same, strict=True)
    ]


def _cause(question: Question, judged: int, first: int, agrees: bool) -> str:
    """Of a wrong answer, given the verdict on the one about figure 0 and whether they agree."""
    if question.figure_id == "0":
        return "language" if question.category == "VS" else "sight"
    repeated = judged == WRONG and agrees
    if question.category == "VD":
        # The right answer about the original, given again about its twin.
        return "either" if first == RIGHT and repeated else "sight"
    if first == WRONG:
        # Without a figure it was wrong already.
        return "language" if repeated else "either"
    return "language" if first == RIGHT and repeated and question.visual_input == 2 else "sight"
