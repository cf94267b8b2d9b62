"""The rule that knows a drawn scene as the judge, in the words that MMHal-Bench reads."""

from collections.abc import Mapping, Sequence

from vlm_jax.errors import InputError
from vlm_jax.evals.judges.interface import Finished, Judgement, JudgeRequest, unnoticed
from vlm_jax.scenes.questions import Question
from vlm_jax.scenes.truth import score
from vlm_jax.scenes.world import Scene


class SceneJudge:
    """Rates ``JudgeRequest.answer`` with :func:`vlm_jax.scenes.truth.score`; costs nothing and never errs.

    Args:
        asked: Question and scene of each sample.
    """

    def __init__(self, asked: Mapping[str, tuple[Question, Scene]]):
        self.identity: Mapping[str, str] = {"kind": "rule", "model": "scenes/truth.py"}
        self.reads_prompts = False
        self._asked = asked

    def __call__(self, requests: Sequence[JudgeRequest], finished: Finished = unnoticed) -> list[Judgement]:
        judgements = [self._judge(request) for request in requests]
        for place, judgement in enumerate(judgements):
            finished(place, judgement)
        return judgements

    def _judge(self, request: JudgeRequest) -> Judgement:
        if request.id not in self._asked:
            raise InputError(f"question {request.id}", "a question about a drawn scene")
        question, scene = self._asked[request.id]
        found = score(question, request.answer, scene)
        said = f"{found.claims_right} true claims, {found.claims_wrong} false.\nRating: {found.rating}"
        return Judgement(said, model=self.identity["model"])
