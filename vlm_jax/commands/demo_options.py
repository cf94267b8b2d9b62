"""What the demo takes, which models it makes, and how each is trained."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vlm_jax.commands.reward_view import RewardView
from vlm_jax.ranges import LARGEST_COUNT, LARGEST_SEED, Range
from vlm_jax.scenes.world import STANDARD_DIALS, Dials

if TYPE_CHECKING:
    from vlm_jax.commands import ppo, reward


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        out: Folder for everything.
        seed: Of the world, the annotators and the training.
        resolution: Pixels a side that the reward models see (the tiny model sees 48): reward models that see perfectly
            need no facts.
        preference: Scenes whose answers are compared.
        prompts: Scenes that PPO asks about.
        validation: Scenes to choose settings on; scored only where there are no test scenes.
        test: Held-out scenes to report.
        reward_epochs: Passes over the pairs.
        ppo_steps: Rollouts of each PPO run.
        dials: Planted causes of hallucination, as far as they lie in images and annotators: what the tiny model has
            learnt from its own training data is fixed.
    """

    out: Path = Path("runs/demo")
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    resolution: Annotated[int, Range(1, 1 << 14)] = 16
    preference: Annotated[int, Range(0, 10_000_000)] = 3600
    prompts: Annotated[int, Range(1, 10_000_000)] = 2400
    validation: Annotated[int, Range(0, 10_000_000)] = 0
    test: Annotated[int, Range(0, 10_000_000)] = 300
    reward_epochs: Annotated[float, Range(0, 1e6, open=True)] = 1.0
    ppo_steps: Annotated[int, Range(1, LARGEST_COUNT)] = 20
    dials: Dials = STANDARD_DIALS


# What each model that is scored was aligned with.
MODELS: dict[str, Literal["nothing", "images", "images and facts"]] = {
    "sft": "nothing",
    "rlhf": "images",
    "fact_rlhf": "images and facts",
}
ALIGNED = tuple(name for name, read in MODELS.items() if read != "nothing")
# Share of the preference scenes' pairs that only measures the reward models.
_HELD_OUT = 1 / 8
# Fewer pairs than a batch cannot be trained on; fewer scenes may hold no POPE question.
_FEWEST, _FEWEST_SCORED = 100, 20
# Parts whose arrays fit the cache of a core.
_MICROBATCHES = 8


def check_sizes(options: Options) -> None:
    """Raises:
    InputError: Too few scenes for what is to be made of them.
    """
    from vlm_jax.errors import InputError

    if options.preference < _FEWEST:
        raise InputError(f"{options.preference} preference scenes", f"at least {_FEWEST}")
    if (options.test or options.validation) < _FEWEST_SCORED:
        found = f"{options.test} test and {options.validation} validation scenes"
        raise InputError(found, f"at least {_FEWEST_SCORED} of one of them")


def held_out(options: Options) -> int:
    """Pairs that only measure the reward models."""
    return round(options.preference * _HELD_OUT)


def _view(options: Options, name: str) -> RewardView:
    facts = options.out / "world" / "image_to_caption.json" if MODELS[name] == "images and facts" else None
    return RewardView(facts=facts, resolution=options.resolution)


def reward_options(options: Options, name: str) -> "reward.Options":
    """How the reward model of one of ``ALIGNED`` is trained."""
    from vlm_jax.commands import reward

    return reward.Options(
        checkpoint="tiny",
        preferences=options.out / "world" / "preferences.json",
        images=options.out / "world" / "images",
        out=options.out / name / "reward",
        view=_view(options, name),
        verdict=("Yes", "No"),
        epochs=options.reward_epochs,
        microbatches=_MICROBATCHES,
        held_out=held_out(options),
        seed=options.seed,
    )


def ppo_options(options: Options, name: str) -> "ppo.Options":
    """How the policy of one of ``ALIGNED`` is trained."""
    from vlm_jax.commands import ppo

    return ppo.Options(
        checkpoint="tiny",
        reward=options.out / name / "reward" / "adapter",
        prompts=options.out / "world" / "prompts.json",
        images=options.out / "world" / "images",
        out=options.out / name / "ppo",
        view=_view(options, name),
        steps=options.ppo_steps,
        # Fresh answers teach more than a second pass over old ones, and cost this model the same.
        epochs=1,
        microbatches=_MICROBATCHES,
        seed=options.seed,
    )
