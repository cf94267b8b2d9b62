"""Whether a model reads pictures and prompts as LLaVA's training had them, or as transformers' processor makes them.

Beside every adapter that is trained here lies what it was trained on,

    reading.json          {"like": "llava"}, or {"like": "transformers", "steps": {"pad": false, "resize": 336, ...}}

and a checkpoint's config says it of itself. ``--like`` decides by hand.
"""

import dataclasses
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from vlm_jax.checkpoints.image_processor import parsed_steps, read_image_steps
from vlm_jax.checkpoints.peft_files import adapter_folder
from vlm_jax.checkpoints.reward_view import VIEW_FILE
from vlm_jax.config import ImageSteps, LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

Like = Literal["llava", "transformers"]
FILE = "reading.json"


class Reading(NamedTuple):
    """How a model reads.

    Attributes:
        steps: What makes an image of it; None for LLaVA's own.
        trained: Whether its training read so, which also taught it where answers end.
    """

    steps: ImageSteps | None
    trained: bool


def written_reading(config: LlavaConfig) -> dict[str, Any]:
    """The contents of the file beside an adapter that was trained so."""
    if config.as_transformers is None:
        return {"like": "llava"}
    return {"like": "transformers", "steps": dataclasses.asdict(config.as_transformers)}


def reading_of(config: LlavaConfig, folder: Path, adapter: Path | None, like: Like | None) -> Reading:
    """What a model is told to read; else as its adapter was trained; else as its own config says.

    Args:
        config: The checkpoint's.
        folder: The checkpoint's.
        adapter: What it is opened for.
        like: What is asked for by hand.

    Raises:
        InputError: ``like`` is another word, the folder has no image processor that can be read as transformers does,
            or the adapter's file is broken.
    """
    if like is not None and like not in get_args(Like):
        raise InputError(f"like {like!r}", " or ".join(get_args(Like)))
    trained = None if adapter is None else _trained(adapter)
    if like is None:
        return Reading(config.as_transformers if trained is None else trained.steps, True)
    if like == "llava":
        return Reading(None, True)
    known = (trained and trained.steps) or config.as_transformers
    return Reading(known or read_image_steps(folder, config.vision.image_size), known is not None)


def odd_reading(adapter: Path, config: LlavaConfig) -> str:
    """A remark on an adapter over a model that reads otherwise than in the adapter's training, or "".

    Raises:
        InputError: It is a reward model, whose scores would be of something else; or its file is broken.
    """
    if (trained := _trained(adapter)) is None or trained.steps == config.as_transformers:
        return ""
    was, now = (
        f"--like {'llava' if steps is None else 'transformers'}" for steps in (trained.steps, config.as_transformers)
    )
    if (adapter_folder(adapter) / VIEW_FILE).exists():
        raise InputError(now, f"{was}, as in the reward model's training", file=str(adapter))
    return f"trained {was}, and read {now}"


def _trained(adapter: Path) -> Reading | None:
    """As the file says; of a reward model without it, which is older, as LLaVA; None where nobody knows."""
    folder = adapter_folder(adapter)
    if not (path := folder / FILE).exists():
        return Reading(None, True) if (folder / VIEW_FILE).exists() else None
    raw = read_json(path)
    steps = parsed_steps(raw.get("steps"))
    if raw != ({"like": "llava"} if steps is None else {"like": "transformers", "steps": raw["steps"]}):
        raise InputError(f"{raw!r:.200}", "what training writes there", file=str(path))
    return Reading(steps, True)
