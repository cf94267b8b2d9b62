"""A judge that reads prompts as a comparer."""

import re
from collections.abc import Callable, Sequence

from vlm_jax.data.conversation import IMAGE
from vlm_jax.evals.calm.trial import Trial, Verdict
from vlm_jax.evals.judges.interface import Judge, Judgement, JudgeRequest

SYSTEM = "You compare two answers to a question about an image. You are fair, and nothing counts but what is right."
_TASK = "Which answer is better? The better one says what is true of the image and answers the question."
_DIRECT = "Give your verdict at once, as one line and nothing else:"
_REASONED = (
    "First think it through step by step: write down what is right and wrong in each answer. Then end with one line:"
)
_VERDICT = "Verdict: A\n\n(or Verdict: B, or Verdict: tie)."
# What every prompt of ours has in it.
WORDING = (SYSTEM, _TASK, _DIRECT, _REASONED, _VERDICT)
_LINE = re.compile(
    r"^[ \t*_#>]*verdict[ \t*_]*:[ \t*_]*(?:answer[ \t]+)?(a|b|tie)[ \t*_.]*$", re.IGNORECASE | re.MULTILINE
)
_SAID: dict[str, Verdict] = {"a": "first", "b": "second", "tie": "tie"}


def prompt(trial: Trial) -> str:
    """What the judge is asked; the captions stand for the image where the pair has them."""
    *before, question = [turn.text.replace(IMAGE, "").strip() for turn in trial.turns]
    parts = [f"Conversation so far:\n{chr(10).join(before)}"] if before else []
    if trial.facts:
        parts.append("The image, as people describe it:\n" + "\n".join(f"- {fact}" for fact in trial.facts))
    parts.append(f"Question: {question}")
    for name, answer, note in zip("AB", trial.answers, trial.notes, strict=True):
        parts.append(f"[Answer {name}]\n{answer}\n[End of answer {name}]")
        if note:
            parts.append(f"About answer {name}: {note}")
    return "\n\n".join([*parts, _TASK, f"{_REASONED if trial.reasoned else _DIRECT}\n{_VERDICT}"])


def verdict(text: str) -> Verdict | None:
    """The verdict of a text whose verdict lines agree; None of all others."""
    said = {found.lower() for found in _LINE.findall(text)}
    return _SAID[said.pop()] if len(said) == 1 else None


class JudgeComparer:
    """Asks a judge; what it said is kept in ``judgements``.

    Args:
        judge: Reads prompts.
        temperature: 0 always takes the most likely token.
        max_tokens: Limit of a judgement; None leaves it to the judge.
        sees_image: Show it the image too.
        finished: Told each judgement.
    """

    def __init__(
        self,
        judge: Judge,
        temperature: float = 0.0,
        max_tokens: int | None = None,
        sees_image: bool = False,
        finished: Callable[[int, Judgement], None] = lambda place, judgement: None,
    ):
        self.judgements: list[Judgement] = []
        self._judge, self._finished = judge, finished
        self._temperature, self._max_tokens, self._sees_image = temperature, max_tokens, sees_image

    def __call__(self, trials: Sequence[Trial]) -> list[Verdict | None]:
        requests = [
            JudgeRequest(
                id=f"{place}/{trial.id}",
                user=prompt(trial),
                system=SYSTEM,
                temperature=self._temperature,
                max_tokens=self._max_tokens,
                image=trial.image if self._sees_image else None,
            )
            for place, trial in enumerate(trials)
        ]
        said = self._judge(requests, self._finished)
        self.judgements += said
        return [verdict(one.text) for one in said]
