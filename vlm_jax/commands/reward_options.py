"""What the command that trains reward models takes."""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

import tyro

from vlm_jax.commands.from_recipe import from_recipe, with_recipe
from vlm_jax.commands.milestones import check
from vlm_jax.commands.reward_view import RewardView
from vlm_jax.commands.training import NewAdapter, Training, require_share
from vlm_jax.ranges import LARGEST_COUNT, Range


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Training, NewAdapter):
    """What the command takes.

    Attributes:
        preferences: Pairs in LLaVA-RLHF's layout (output_1, output_2, preference).
        images: Folder that the rows' image names are relative to.
        view: What the reward model reads beside the answer.
        verdict: Two words, such as `Yes No`: the head starts as the model's own preference for saying the first rather
            than the second after the evaluation turn. None: a random start, as LLaVA-RLHF has it.
        epochs: Passes over the pairs.
        max_length: Positions of conversation and evaluation turn, image included.
        held_out: Pairs at the end of the file that only measure accuracy. Those of --evaluate-every without a file.
        best: Keep the adapter that was the best by this metric of the held-out pairs, in OUT/best.
        centring: Keeps scores near 0: this times |mean(r0 + r1)| is added to the loss.
    """

    preferences: Path
    images: Path
    view: tyro.conf.OmitArgPrefixes[RewardView] = RewardView()
    verdict: tuple[str, str] | None = None
    epochs: Annotated[float | None, Range(0, 1e6, open=True)] = from_recipe()
    max_length: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    held_out: Annotated[int | None, Range(0, LARGEST_COUNT)] = from_recipe()
    centring: Annotated[float | None, Range(0, 1e6)] = from_recipe()
    best: Literal["accuracy", "loss"] | None = None


def complete(options: Options) -> Options:
    """With every figure filled in, and checked as far as options alone tell.

    Raises:
        InputError: A figure is out of its range.
    """
    from vlm_jax.errors import require_parts

    options = with_recipe(options, "reward", facts=options.view.facts is not None)
    require_share(options)
    check(options, own=options.held_out)
    require_parts(options.batch_size, options.microbatches, "microbatches")
    return options
