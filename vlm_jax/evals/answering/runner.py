"""From questions about images to a file of answers in LLaVA's format (``model_vqa.py``), to be gone on with after a
kill.

    {"question_id": 1, "prompt": "...", "text": "Yes", "answer_id": "...", "model_id": "...", "metadata": {}}

While it is written the answers stand in ``NAME.partial``, in the order in which they come; at the end they are put in
the questions' order under the file's own name.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.opening import Model
from vlm_jax.data.conversation import IMAGE, Turn
from vlm_jax.data.pipelines import image_prompts, prompt_lengths
from vlm_jax.data.sources import Prompt
from vlm_jax.evals.answering.questions import SUFFIXES, ImageQuestion, Suffix
from vlm_jax.files import read_json_lines, write_json_lines
from vlm_jax.generate.answers import answer_batches
from vlm_jax.generate.sampling import Sampling
from vlm_jax.runs.progress import Meter


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
    """Answer every question once and write them to ``target``; those in ``NAME.partial`` already are kept.

    Raises:
        InputError: An image cannot be read, or a prompt is too long.
    """
    partial = _partial(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    done = {row["question_id"]: row for row in read_json_lines(partial)} if partial.exists() else {}
    # Without the line that a kill cut off, and without the other half of a batch that it cut.
    write_json_lines(partial, done.values())
    records = [_record(ask, suffix) for ask in to_ask]
    buckets = prompt_lengths(model.config)
    batches = image_prompts(records, model.tokenizer, model.config, model.template, batch_size, buckets)

    def finished(indices: Sequence[int]) -> bool:
        return all(_written_id(to_ask[index].id) in done for index in indices)

    with partial.open("a", encoding="utf-8") as file, Meter("answers", len(to_ask), done=len(done)) as meter:
        for answers in answer_batches(model, lora, batches, sampling, seed, finished):
            rows = [_row(to_ask[index], records[index], text, model_id) for index, text in answers.items()]
            done |= {row["question_id"]: row for row in rows}
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
            file.flush()
            meter.update(len(done))
    write_json_lines(target, [done[_written_id(ask.id)] for ask in to_ask])
    partial.unlink()


def answered_already(target: Path) -> bool:
    """Whether :func:`answer_file` has written an answer; if not, nothing is left of it."""
    partial = _partial(target)
    if target.exists() or (partial.exists() and partial.stat().st_size):
        return True
    partial.unlink(missing_ok=True)
    return False


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _record(ask: ImageQuestion, suffix: Suffix) -> Prompt:
    text = ask.text + SUFFIXES[suffix]
    shown = text if ask.image is None else f"{IMAGE}\n{text}"
    return Prompt(id=ask.id, image=ask.image, turns=(Turn("human", shown),))


def _row(ask: ImageQuestion, record: Prompt, text: str, model_id: str) -> dict[str, Any]:
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
