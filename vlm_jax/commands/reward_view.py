"""What a reward model reads beside the answer: an option of every verb that trains or uses one."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from vlm_jax.commands.from_recipe import from_recipe

if TYPE_CHECKING:
    from vlm_jax.data.evaluation_turn import RewardPrompt

# Beside the adapter of a reward model.
VIEW_FILE = "reward_view.json"


@dataclasses.dataclass(frozen=True)
class RewardView:
    """What a reward model reads beside the answer; PPO must use the same as its training did.

    Attributes:
        facts: JSON of image name -> captions; none for a reward model without facts.
        resolution: Reduce images to this many pixels a side before the tower sees them.
        reward_prompt: Words of the evaluation turn: `short`, `standard`, or a text file with {factual_prompt} in it.
    """

    facts: Path | None = None
    resolution: int | None = None
    reward_prompt: str | None = from_recipe()


def evaluation_turn(name: str) -> "RewardPrompt":
    """The evaluation turn that an option names."""
    from vlm_jax.data.evaluation_turn import SHORT, STANDARD, load_reward_prompt

    built_in = {"short": SHORT, "standard": STANDARD}
    return built_in[name] if name in built_in else load_reward_prompt(name)


def turn_of(view: RewardView, adapter: Path) -> "RewardPrompt":
    """The evaluation turn of the reward model in a folder: what the option names, or else what its training read.

    Raises:
        InputError: Neither says which.
    """
    from vlm_jax.data.evaluation_turn import RewardPrompt
    from vlm_jax.errors import InputError
    from vlm_jax.files import read_json

    if view.reward_prompt is not None:
        return evaluation_turn(view.reward_prompt)
    if (adapter / VIEW_FILE).exists():
        turn = read_json(adapter / VIEW_FILE).get("reward_prompt")
        if not isinstance(turn, dict) or turn.keys() != {field.name for field in dataclasses.fields(RewardPrompt)}:
            raise InputError(
                f"reward_prompt {turn!r:.60}", "what `vlm-jax reward` wrote", file=str(adapter / VIEW_FILE)
            )
        return RewardPrompt(**turn)
    raise InputError(f"no {VIEW_FILE}, and no --reward-prompt", "one of them", file=str(adapter))


def described(view: RewardView, turn: "RewardPrompt") -> dict:
    """What PPO must agree with: the files of facts may differ, whether there are facts may not."""
    return {
        "facts": view.facts is not None,
        "resolution": view.resolution,
        "reward_prompt": dataclasses.asdict(turn),
    }


def check_view(view: RewardView, adapter: Path) -> None:
    """Compare with what the reward model in a folder was trained with, where the folder says so.

    Raises:
        InputError: They differ; names in what.
    """
    from vlm_jax.errors import InputError, differences
    from vlm_jax.files import read_json

    if not (adapter / VIEW_FILE).exists():
        return
    trained, now = (
        {key: repr(value) for key, value in values.items()}
        for values in (read_json(adapter / VIEW_FILE), described(view, turn_of(view, adapter)))
    )
    if odd := differences(now, trained):
        raise InputError(odd, "what the reward model was trained with", file=str(adapter / VIEW_FILE))
