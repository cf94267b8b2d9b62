"""Whether a model reads pictures and prompts as LLaVA's training had them, or as transformers' processor makes them.

Beside an adapter that was trained on what transformers makes of its rows lies

    as_transformers.json          {"pad": false, "resize": 336, "resample": 3, "crop": [336, 336]}

and a checkpoint's config says the same of itself. ``--like`` decides by hand.
"""

from pathlib import Path
from typing import Literal, NamedTuple, get_args

from vlm_jax.checkpoints.image_processor import parsed_steps, read_image_steps
from vlm_jax.checkpoints.peft_files import adapter_folder
from vlm_jax.checkpoints.reward_view import VIEW_FILE
from vlm_jax.config import ImageSteps, LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

Like = Literal["llava", "transformers"]
FILE = "as_transformers.json"


class Reading(NamedTuple):
    """How a model reads.

    Attributes:
        steps: What makes an image of it; None for LLaVA's own.
        trained: Whether its training read so, which also taught it where answers end.
        remark: What is odd about it, or "".
    """

    steps: ImageSteps | None
    trained: bool
    remark: str


def reading_of(config: LlavaConfig, folder: Path, adapter: Path | None, like: Like | None) -> Reading:
    """What a model is told to read; else as its adapter was trained; else as its own config says.

    Args:
        config: The checkpoint's.
        folder: The checkpoint's.
        adapter: What it is opened for.
        like: What is asked for by hand.

    Raises:
        InputError: ``like`` is another word, the folder has no image processor that can be read as transformers does,
            or a reward model is to read otherwise than in its training.
    """
    if like is not None and like not in get_args(Like):
        raise InputError(f"like {like!r}", " or ".join(get_args(Like)))
    trained = None if adapter is None else _trained(adapter_folder(adapter))
    known = trained or config.as_transformers
    if like is None:
        return Reading(known, True, "")
    remark = _odd(adapter, trained, like)
    if like == "llava":
        return Reading(None, True, remark)
    return Reading(known or read_image_steps(folder, config.vision.image_size), known is not None, remark)


def _trained(adapter: Path) -> ImageSteps | None:
    if not (path := adapter / FILE).exists():
        return None
    if (steps := parsed_steps(read_json(path))) is None:
        raise InputError("other entries than pad, resize, resample and crop", "what training wrote", file=str(path))
    return steps


def _odd(adapter: Path | None, trained: ImageSteps | None, like: Like) -> str:
    if adapter is None:
        return ""
    folder = adapter_folder(adapter)
    was = "llava" if trained is None else "transformers"
    if was == like:
        return ""
    if (folder / VIEW_FILE).exists():
        raise InputError(f"--like {like}", f"{was}, as in the reward model's training", file=str(folder))
    return f"trained --like {was}, and read --like {like}" if trained is not None else ""
