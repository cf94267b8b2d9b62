"""What a reward model reads beside the answer: an option of every verb that trains or uses one."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from vlm_jax.commands.from_recipe import from_recipe
from vlm_jax.ranges import Range

if TYPE_CHECKING:
    from vlm_jax.checkpoints.reward_view import TrainedView
    from vlm_jax.data.evaluation_turn import RewardPrompt


@dataclasses.dataclass(frozen=True)
class RewardView:
    """What a reward model reads beside the answer; PPO must use the same as its training did.

    Attributes:
        facts: JSON of image name -> captions; none for a reward model without facts.
        resolution: Reduce images to this many pixels a side before the tower sees them.
        reward_prompt: Words of the evaluation turn: `short`, `standard`, or a text file with {factual_prompt} in it.
    """

    facts: Path | None = None
    resolution: Annotated[int | None, Range(1, 1 << 14)] = None
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
    from vlm_jax.checkpoints.reward_view import VIEW_FILE, read_trained_view
    from vlm_jax.errors import InputError

    if view.reward_prompt is not None:
        return evaluation_turn(view.reward_prompt)
    if (trained := read_trained_view(adapter)) is not None:
        return trained.prompt
    raise InputError(f"no {VIEW_FILE}, and no --reward-prompt", "one of them", file=str(adapter))


def view_with(view: RewardView, turn: "RewardPrompt") -> "TrainedView":
    """What PPO must agree with: the files of facts may differ, whether there are facts may not."""
    from vlm_jax.checkpoints.reward_view import TrainedView

    return TrainedView(view.facts is not None, view.resolution, turn)


def reading_of(view: RewardView, adapter: Path) -> "TrainedView":
    """What the reward model in a folder reads: what its training did, or, where its folder does not tell, what the
    options say.

    Raises:
        InputError: They differ (a resolution that is left out is the training's), or there is no evaluation turn.
    """
    from vlm_jax.checkpoints.reward_view import read_trained_view

    if view.resolution is None and (trained := read_trained_view(adapter)) is not None:
        view = dataclasses.replace(view, resolution=trained.resolution)
    check_view(view, adapter)
    return view_with(view, turn_of(view, adapter))


def check_view(view: RewardView, adapter: Path) -> None:
    """Compare with what the reward model in a folder was trained with, where the folder says so.

    Raises:
        InputError: They differ; names in what. Or what lies there is no reward model.
    """
    from vlm_jax.checkpoints.peft_files import require_head
    from vlm_jax.checkpoints.reward_view import VIEW_FILE, read_trained_view, written_view
    from vlm_jax.errors import InputError, differences

    require_head(adapter)
    if (trained := read_trained_view(adapter)) is None:
        return
    if trained.facts and view.facts is None:
        raise InputError("no --facts", "--facts, which the reward model read in its training", file=str(adapter))
    if view.facts is not None and not trained.facts:
        raise InputError("--facts", "none, as in the reward model's training", file=str(adapter))
    asked, found = (
        {key: repr(value) for key, value in written_view(one).items()}
        for one in (view_with(view, turn_of(view, adapter)), trained)
    )
    if odd := differences(asked, found):
        # Not placed in that file, which holds what is right.
        raise InputError(odd, f"what the reward model was trained with, as {adapter / VIEW_FILE} says")
