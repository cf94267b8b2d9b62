"""What a reward model reads beside the answer, as its training wrote it down beside the adapter.

{"facts": true, "resolution": null, "reward_prompt": {"text": "...", "facts_lead": "...", "fact_line": "..."}}
"""

import dataclasses
from pathlib import Path
from typing import Any

from vlm_jax.checkpoints.peft_files import adapter_folder
from vlm_jax.data.evaluation_turn import RewardPrompt
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

VIEW_FILE = "reward_view.json"


@dataclasses.dataclass(frozen=True)
class TrainedView:
    """What ``vlm-jax reward`` was told.

    Attributes:
        facts: Whether the evaluation turn lists facts about the image.
        resolution: Pixels a side that images are reduced to; None for the tower's own.
        prompt: The evaluation turn.
    """

    facts: bool
    resolution: int | None
    prompt: RewardPrompt


def written_view(view: TrainedView) -> dict[str, Any]:
    """What the file holds of a view."""
    return {
        "facts": view.facts,
        "resolution": view.resolution,
        "reward_prompt": dataclasses.asdict(view.prompt),
    }


def read_trained_view(adapter: Path) -> TrainedView | None:
    """The view in an adapter's folder; None where its training left none.

    Raises:
        InputError: The file holds something else.
    """
    path = adapter_folder(adapter) / VIEW_FILE
    if not path.exists():
        return None
    raw = read_json(path)
    if not _is_view(raw):
        wanted = "facts, resolution and reward_prompt (text, facts_lead and fact_line)"
        raise InputError(f"{raw!r:.200}", wanted, file=str(path))
    return TrainedView(raw["facts"], raw["resolution"], RewardPrompt(**raw["reward_prompt"]))


def _is_view(raw: dict[str, Any]) -> bool:
    prompt, resolution = raw.get("reward_prompt"), raw.get("resolution", 0)
    return (
        isinstance(raw.get("facts"), bool)
        and (resolution is None or (type(resolution) is int and resolution > 0))
        and isinstance(prompt, dict)
        and prompt.keys() == {field.name for field in dataclasses.fields(RewardPrompt)}
        and all(isinstance(text, str) for text in prompt.values())
    )
