"""What PPO's command takes, and how its steps take it."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.from_recipe import from_recipe, with_recipe
from vlm_jax.commands.reward_view import RewardView
from vlm_jax.commands.training import Training, optim_of
from vlm_jax.ranges import LARGEST_COUNT, Range

if TYPE_CHECKING:
    from vlm_jax.train.ppo import PpoSettings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Options(Training):
    """What the command takes.

    Attributes:
        reward: Adapter folder of the reward model.
        prompts: Questions in LLaVA-RLHF's layout.
        images: Folder that the rows' image names are relative to.
        policy: Adapter folder that the policy starts from and is held to; the bare checkpoint without.
        view: What the reward model reads beside the answer.
        steps: Rollouts.
        epochs: Passes over a rollout.
        minibatches: Parts of a pass, each one update.
        rollout_parts: Parts that the answers of a rollout are sampled in, one after the other.
        prompt_length: Most positions of a prompt, image included.
        suffix_length: Positions of the evaluation turn.
        max_new_tokens: Limit of an answer.
        temperature: Of the sampled answers.
        kl_coefficient: Price of a nat away from the reference, in units of reward.
        kl_estimator: k1 is unbiased, k1_clamped is the released code's, k3 is unbiased and never negative.
        reward_scale: Factor of all token rewards (10 in the released code).
        stop_penalty: Taken off an answer that does not end.
        length_coefficient: Taken off for length, times each row's length_bonus and the share of the limit used.
        correct_bonus: Added for a known right answer.
        gamma: Discount of later rewards.
        lam: Lambda of generalised advantages.
        clip: How far the ratio of probabilities may go from 1.
        value_clip: How far a value may go from the old one.
        value_coefficient: Factor of the value loss.
        pads: Leave padding out of means, or count it as the released code does.
    """

    reward: Path
    prompts: Path
    images: Path
    policy: Path | None = None
    view: tyro.conf.OmitArgPrefixes[RewardView] = RewardView()
    steps: Annotated[int | None, Range(1, LARGEST_COUNT)] = from_recipe()
    epochs: Annotated[int | None, Range(1, 1000)] = from_recipe()
    minibatches: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    rollout_parts: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    prompt_length: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    suffix_length: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    max_new_tokens: Annotated[int | None, Range(1, 1 << 20)] = from_recipe()
    temperature: Annotated[float | None, Range(1e-3, 100)] = from_recipe()
    kl_coefficient: Annotated[float | None, Range(0, 1e6)] = from_recipe()
    kl_estimator: Literal["k1", "k1_clamped", "k3"] | None = from_recipe()
    reward_scale: Annotated[float | None, Range(0, 1e6, open=True)] = from_recipe()
    stop_penalty: Annotated[float | None, Range(0, 1e6)] = from_recipe()
    length_coefficient: Annotated[float | None, Range(-1e6, 1e6)] = from_recipe()
    correct_bonus: Annotated[float | None, Range(0, 1e6)] = from_recipe()
    gamma: Annotated[float | None, Range(0, 1)] = from_recipe()
    lam: Annotated[float | None, Range(0, 1)] = from_recipe()
    clip: Annotated[float | None, Range(0, 1, open=True)] = from_recipe()
    value_clip: Annotated[float | None, Range(0, 1e6, open=True)] = from_recipe()
    value_coefficient: Annotated[float | None, Range(0, 1e6, open=True)] = from_recipe()
    pads: Literal["masked", "counted"] | None = from_recipe()


def complete(options: Options) -> Options:
    """With every figure filled in, and checked as far as options alone tell.

    Raises:
        InputError: A figure is out of its range.
    """
    from vlm_jax.errors import require_parts

    options = with_recipe(options, "ppo", facts=options.view.facts is not None)
    require_parts(options.batch_size, options.minibatches * options.microbatches, "parts (minibatches x microbatches)")
    require_parts(options.batch_size, options.rollout_parts, "rollout parts")
    return options


def settings_of(options: Options) -> "PpoSettings":
    """Complete options as the steps take them."""
    from vlm_jax.generate.sampling import Sampling
    from vlm_jax.train.ppo import PpoSettings
    from vlm_jax.train.reward_terms import RewardTerms

    updates = options.epochs * options.minibatches
    same = ("kl_coefficient", "kl_estimator", "reward_scale", "gamma", "lam", "clip", "value_clip", "value_coefficient")
    same += ("epochs", "minibatches", "rollout_parts", "microbatches", "pads")
    return PpoSettings(
        optim=optim_of(options, options.steps * updates, round(options.warmup * updates)),
        sampling=Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature),
        terms=RewardTerms(options.stop_penalty, options.length_coefficient, options.correct_bonus),
        **{name: getattr(options, name) for name in same},
    )
