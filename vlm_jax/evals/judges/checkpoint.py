"""A checkpoint of ours as the judge."""

from collections.abc import Iterator, Mapping, Sequence

from vlm_jax.checkpoints.opening import MeshOptions, Model, open_model, open_policy, source_of
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.pipelines import image_prompts
from vlm_jax.data.sources import Prompt
from vlm_jax.evals.judges.interface import Finished, Judgement, JudgeRequest, unnoticed
from vlm_jax.generate.answers import answer_batches
from vlm_jax.generate.sampling import Sampling
from vlm_jax.parallel.memory import require_answering

# Positions of text, added to those of the image: a rubric, two answers and what is known of the image.
_TEXT_BUCKETS = (256, 512, 1024, 2048, 4096)
_MOST_TOKENS = 1024  # Where the request leaves the limit to the judge.


class CheckpointJudge:
    """Reads a judging prompt, the image as well where the request has one, and answers.

    Args:
        checkpoint: Folder, or ``tiny``; opened when the first request comes.
        batch_size: Judgements at a time.
        mesh: Layout of the devices.

    Raises:
        InputError: The folder holds no weights.
    """

    def __init__(self, checkpoint: str, batch_size: int, mesh: MeshOptions):
        self.identity: Mapping[str, str] = {
            "kind": "checkpoint",
            "model": checkpoint,
            "weights_sha256": source_of(checkpoint).sha256,
        }
        self.reads_prompts = True
        self._checkpoint, self._batch_size, self._mesh = checkpoint, batch_size, mesh
        self._model: Model | None = None

    def __call__(self, requests: Sequence[JudgeRequest], finished: Finished = unnoticed) -> list[Judgement]:
        made: dict[int, Judgement] = {}
        groups: dict[Sampling, list[int]] = {}
        for place, request in enumerate(requests):
            groups.setdefault(_sampling(request), []).append(place)
        for sampling, places in groups.items():
            for number, text in self._answers([requests[place] for place in places], sampling):
                made[places[number]] = Judgement(text, model=self._checkpoint)
                finished(places[number], made[places[number]])
        return [made[place] for place in range(len(requests))]

    def _answers(self, requests: Sequence[JudgeRequest], sampling: Sampling) -> Iterator[tuple[int, str]]:
        model = self._model = self._model or open_model(self._checkpoint, self._mesh)
        records = [_record(request) for request in requests]
        buckets = [model.config.vision.patches + length for length in _TEXT_BUCKETS]
        require_answering(model, self._batch_size, min(buckets), sampling.max_new_tokens)
        batches = image_prompts(records, model.tokenizer, model.config, model.template, self._batch_size, buckets)
        for answers in answer_batches(model, open_policy(model, None), batches, sampling):
            yield from answers.items()


def _sampling(request: JudgeRequest) -> Sampling:
    return Sampling(max_new_tokens=request.max_tokens or _MOST_TOKENS, temperature=request.temperature)


def _record(request: JudgeRequest) -> Prompt:
    # An answer may hold the marker of an image, which would be taken for one.
    text = "\n\n".join(filter(None, (request.system, request.user))).replace(IMAGE, "image")
    shown = text if request.image is None else f"{IMAGE}\n{text}"
    return Prompt(id=request.id, image=request.image, turns=(Turn("human", shown),))
