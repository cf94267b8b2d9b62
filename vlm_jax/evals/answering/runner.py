"""From questions about images to a file of answers in LLaVA's format (``model_vqa.py``), to be gone on with after a
kill.

    {"question_id": 1, "prompt": "...", "text": "Yes", "answer_id": "...", "model_id": "...", "metadata": {}}
"""

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.pipelines import image_prompts, prompt_lengths
from vlm_jax.data.sources import Prompt
from vlm_jax.evals.answering.questions import SUFFIXES, ImageQuestion, Suffix
from vlm_jax.generate.answers import answer_batches
from vlm_jax.generate.sampling import Sampling
from vlm_jax.parallel.memory import require_answering
from vlm_jax.runs.row_files import Row, Skip, write_rows


def answer_file(
    target: Path,
    model: Model,
    lora: Params,
    to_ask: Sequence[ImageQuestion],
    sampling: Sampling,
    *,
    batch_size: int,
    suffix: Suffix = "none",
    seed: int = 0,
    model_id: str = "",
) -> None:
    """Answer every question once and write them to ``target``; see :func:`vlm_jax.runs.row_files.write_rows`.

    Raises:
        InputError: An image cannot be read, a prompt is too long, or a batch does not fit into memory.
    """
    records = [_record(ask, suffix) for ask in to_ask]
    buckets = prompt_lengths(model.config)
    require_answering(model, batch_size, min(buckets), sampling.max_new_tokens)
    prompts = image_prompts(records, model.tokenizer, model.config, model.template, batch_size, buckets)

    def batches(skip: Skip) -> Iterator[dict[int, Row]]:
        for answers in answer_batches(model, lora, prompts, sampling, seed, skip):
            yield {index: _row(to_ask[index], records[index], text, model_id) for index, text in answers.items()}

    write_rows(target, "question_id", [_written_id(ask.id) for ask in to_ask], batches, "answers")


def _record(ask: ImageQuestion, suffix: Suffix) -> Prompt:
    text = ask.text + SUFFIXES[suffix]
    shown = text if ask.image is None else f"{IMAGE}\n{text}"
    return Prompt(id=ask.id, image=ask.image, turns=(Turn("human", shown),))


def _row(ask: ImageQuestion, record: Prompt, text: str, model_id: str) -> Row:
    return {
        "question_id": _written_id(ask.id),
        "prompt": record.turns[0].text.removeprefix(f"{IMAGE}\n"),
        "text": text,
        "answer_id": hashlib.sha256(f"{model_id}\n{ask.id}\n{text}".encode()).hexdigest()[:22],
        "model_id": model_id,
        "metadata": {},
    }


def _written_id(identity: str) -> int | str:
    """Numbers as numbers, which is how official question files and tools have them."""
    return int(identity) if identity.isdecimal() and str(int(identity)) == identity else identity
