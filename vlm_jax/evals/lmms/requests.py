"""What lmms-eval asks, in our words; needs nothing of lmms-eval itself."""

import dataclasses
import functools
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.assemble import placed
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.pipelines import image_prompts, prompt_lengths
from vlm_jax.data.rows import Origin
from vlm_jax.data.sources import Prompt
from vlm_jax.errors import InputError
from vlm_jax.generate.answers import answer_batches
from vlm_jax.generate.sampling import Sampling
from vlm_jax.runs.progress import Meter

# What LLaVA's model class there takes where a task says nothing.
_MAX_NEW_TOKENS = 1024

# Pipelines read ahead with threads, of which a task's own functions need not know.
_OPENING = threading.Lock()


@dataclasses.dataclass(frozen=True)
class Document:
    """One row of a task's data set; called, it opens its picture. Equal ones show the same picture.

    Attributes:
        task, split, number: Where it stands; numbers count from 0.
        visuals_of: The task's ``doc_to_visual``.
        rows: The split; a row is looked up, and its picture decoded, whenever it is needed, so that a benchmark's
            pictures are never in memory together.
    """

    task: str
    split: str
    number: int
    visuals_of: Callable[[Any], Any] = dataclasses.field(compare=False)
    rows: Any = dataclasses.field(compare=False)

    def row(self) -> Any:
        return self.rows[self.number]

    @functools.cached_property
    def shows(self) -> int:
        """How many images there are: none or one.

        Raises:
            InputError: The document shows something else.
        """
        return len(self._pictures())

    def __call__(self) -> Image.Image:
        return self._pictures()[0]

    def _pictures(self) -> list[Image.Image]:
        with _OPENING:
            found = self.visuals_of(self.row())
        visuals = [one for one in (found if isinstance(found, list | tuple) else [found]) if one is not None]
        if odd := [type(one).__name__ for one in visuals if not isinstance(one, Image.Image)]:
            raise InputError(f"a visual of type {odd[0]}", "images (this model reads no video and no sound)")
        if len(visuals) > 1:
            raise InputError(f"{len(visuals)} images", "one or none (this model reads one image at a time)")
        return visuals


def prompt_of(context: str, document: Document) -> Prompt:
    """The question as one turn of the user.

    ``<image>`` is put in front unless the context has it somewhere.

    Raises:
        InputError: The document has several images, or other media, or markers and images do not go together.
    """
    prompt = Prompt(
        id=f"{document.task}/{document.split}/{document.number}",
        image=None,
        turns=(Turn("human", context),),
        origin=Origin(f"task {document.task}, split {document.split}, document {document.number}", None),
    )
    markers = context.count(IMAGE)
    with placed(prompt):
        if markers > document.shows:
            found = f"{markers} {IMAGE} in the question and {document.shows} images"
            raise InputError(found, "one of each, or no marker")
    if not document.shows:
        return prompt
    marked = context if markers else f"{IMAGE}\n{context}"
    return dataclasses.replace(prompt, image=document, turns=(Turn("human", marked),))


def decoding(wanted: Mapping[str, Any], positions: int) -> tuple[Sampling, tuple[str, ...]]:
    """A task's ``generation_kwargs`` as our rule, and the texts that end an answer.

    Greedy unless a temperature above 0 is given, or ``do_sample`` without one; always greedy where ``do_sample`` is
    False. Limits beyond the model's positions (some tasks want 32768 tokens) are cut down to them. Keys that belong
    to other models change nothing.

    Raises:
        InputError: A figure out of its range, a beam search, or a repetition penalty.
    """
    for key in ("num_beams", "repetition_penalty"):
        if wanted.get(key) not in (None, 1):
            raise InputError(f"{key} {wanted[key]}", f"{key} 1 (lmms-eval's --gen_kwargs can set it)")
    drawn, temperature = wanted.get("do_sample"), wanted.get("temperature")
    if temperature is None:
        temperature = 1.0 if drawn else 0.0
    limit = wanted.get("max_new_tokens")
    limit = min(_MAX_NEW_TOKENS if limit is None else int(limit), positions)
    until = wanted.get("until") or ()
    stops = (until,) if isinstance(until, str) else tuple(until)
    if drawn is False or temperature == 0:
        # Tasks write a top_p of 0 or of nothing where it does not matter.
        return Sampling(limit, temperature=0.0), stops
    top_p, top_k = wanted.get("top_p"), wanted.get("top_k")
    return Sampling(limit, float(temperature), 1.0 if top_p is None else float(top_p), int(top_k or 0)), stops


def cut(text: str, stops: Sequence[str]) -> str:
    """What comes before the first of ``stops``."""
    for stop in filter(None, stops):
        text = text.partition(stop)[0]
    return text.strip()


def answers(
    model: Model,
    lora: Params,
    prompts: Sequence[Prompt],
    wanted: Sequence[Mapping[str, Any]],
    *,
    batch_size: int,
    seed: int = 0,
) -> list[str]:
    """One for each prompt and its ``generation_kwargs``, in their order.

    Raises:
        InputError: See :func:`decoding`; a prompt is too long; a picture cannot be read.
    """
    rules = []
    for prompt, one in zip(prompts, wanted, strict=True):
        with placed(prompt):
            rules.append(decoding(one, model.config.language.max_positions))
    groups: dict[Sampling, list[int]] = {}
    for index, (sampling, _) in enumerate(rules):
        groups.setdefault(sampling, []).append(index)

    texts, shape = {}, (batch_size, prompt_lengths(model.config))
    with Meter("answers", len(prompts)) as meter:
        for sampling, members in groups.items():
            records = [prompts[index] for index in members]
            batches = image_prompts(records, model.tokenizer, model.config, model.template, *shape)
            for found in answer_batches(model, lora, batches, sampling, seed):
                texts |= {members[place]: cut(text, rules[members[place]][1]) for place, text in found.items()}
                meter.update(len(texts))
    return [texts[index] for index in range(len(prompts))]
