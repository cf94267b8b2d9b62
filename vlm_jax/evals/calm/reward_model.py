"""A reward model of ours as a comparer: the answer with the higher score is the better one."""

from collections.abc import Iterator, Sequence

import jax
import numpy as np

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.assemble import batch_of, judged, placed, suffixes, viewer
from vlm_jax.data.conversation import Turn
from vlm_jax.data.encoding import Encoded, encode_conversation, encode_prompt
from vlm_jax.data.evaluation_turn import RewardPrompt
from vlm_jax.data.pipelines import prompt_lengths
from vlm_jax.data.sources import Prompt
from vlm_jax.evals.calm.trial import PLACES, Trial, Verdict
from vlm_jax.parallel.compile import place_batch
from vlm_jax.parallel.memory import require_reading
from vlm_jax.train.reward import reward_scores

# Texts that are sorted by length at a time.
_READ_AHEAD = 2048


class RewardComparer:
    """Scores both answers as training does: conversation, answer, end token, evaluation turn; facts in their order.

    A score depends on the text and the image alone, so that verdicts do not depend on an answer's place.

    Args:
        model: The base, with the adapter's rank.
        role: ``{"lora", "head"}``, on the mesh.
        prompt: The evaluation turn that it was trained with.
        resolution: The coarser view that it was trained with.
        max_length: Positions of a text, image included; longer answers are cut at their end and counted in ``cut``.
        batch_size: Texts at a time.
    """

    def __init__(
        self,
        model: Model,
        role: Params,
        prompt: RewardPrompt,
        resolution: int | None = None,
        max_length: int = 2048,
        batch_size: int = 64,
    ):
        self.cut = 0
        self._model, self._role, self._batch_size = model, role, batch_size
        self._view = viewer(model.config, resolution)
        self._suffix_of = suffixes(model.tokenizer, model.template, prompt)
        self._buckets = prompt_lengths(model.config, max_length)
        require_reading(model, batch_size, min(self._buckets))
        self._score = jax.jit(lambda base, role, batch: reward_scores(model.config, base, role, batch))

    def __call__(self, trials: Sequence[Trial]) -> list[Verdict | None]:
        scores = self.scores(trials)
        return ["tie" if one == two else PLACES[int(two > one)] for one, two in scores]

    def scores(self, trials: Sequence[Trial]) -> list[tuple[float, float]]:
        """Of the first and of the second answer.

        Raises:
            InputError: Prompt and evaluation turn leave no room for an answer, or an image cannot be read.
        """
        texts = [(trial, side) for trial in trials for side in (0, 1)]
        values = np.zeros(len(texts))
        with jax.set_mesh(self._model.mesh):
            for start in range(0, len(texts), _READ_AHEAD):
                part = texts[start : start + _READ_AHEAD]
                for places, length, rows in self._batches(part):
                    require_reading(self._model, self._batch_size, length)
                    full = rows + rows[-1:] * (self._batch_size - len(rows))
                    batch = batch_of(full, length, "left", self._model.config.pad_token_id)
                    found = self._score(self._model.base, self._role, place_batch(self._model.mesh, batch))
                    values[[start + place for place in places]] = np.asarray(found)[: len(rows)]
        return [(float(one), float(two)) for one, two in values.reshape(-1, 2)]

    def _batches(
        self, texts: Sequence[tuple[Trial, int]]
    ) -> Iterator[tuple[list[int], int, list[tuple[Encoded, np.ndarray]]]]:
        """Places of at most a batch of texts, the length to fill them up to, and text and image of each."""
        encoded = [self._encode(trial, side) for trial, side in texts]
        groups: dict[int, list[int]] = {}
        for place, one in enumerate(encoded):
            groups.setdefault(next(length for length in self._buckets if len(one) <= length), []).append(place)
        for length, members in sorted(groups.items()):
            for start in range(0, len(members), self._batch_size):
                places = members[start : start + self._batch_size]
                yield places, length, [(encoded[place], self._view(_record(texts[place][0]))) for place in places]

    def _encode(self, trial: Trial, side: int) -> Encoded:
        model, most = self._model, self._buckets[-1]
        # Whole, so that what is cut off can be counted.
        parts = model.tokenizer, model.template
        answer = f"{trial.answers[side]} {trial.notes[side]}".strip()
        whole = encode_conversation(*parts, (*trial.turns, Turn("gpt", answer)), model.config, _UNLIMITED)
        prompt = encode_prompt(*parts, trial.turns, model.config, _UNLIMITED)
        suffix = self._suffix_of(trial.facts)
        with placed(_record(trial)):
            made = judged(whole, len(prompt), suffix, most)
        self.cut += len(made) < len(whole) + len(suffix)
        return made


_UNLIMITED = 1 << 30


def _record(trial: Trial) -> Prompt:
    return Prompt(id=trial.id, image=trial.image, turns=trial.turns)
