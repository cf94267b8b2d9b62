"""Optimise a policy against a reward model with PPO (Schulman et al. 2017), as LLaVA-RLHF does, images included.

Policy, reference, reward and value are adapters over one checkpoint. The policy starts as the reference: the bare
checkpoint, or `--policy`. The value model starts as the reward model with a zero head. `--facts`, `--resolution` and
`--reward-prompt` must say what the reward model read in its training; where its folder tells, they are compared.
OUT/adapter holds the policy, OUT/answers/ one file a rollout with every answer and its score. Figures that are left out
are the recipe's (`vlm-jax recipe list`). The same command continues a run that was stopped.
"""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from vlm_jax.commands.from_recipe import from_recipe, with_recipe
from vlm_jax.commands.reward_view import RewardView, check_view, evaluation_turn
from vlm_jax.commands.training import Training, checked, open_for_training, optim_of
from vlm_jax.ranges import LARGEST_COUNT, Range

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from vlm_jax.arrays import Params
    from vlm_jax.checkpoints.opening import Model
    from vlm_jax.data.sources import Prompt
    from vlm_jax.train.ppo import PpoSettings

# Largest root mean square difference of log-probabilities that are computed twice, which rounding explains: in float32
# graphics cards multiply with 10 bits of fraction.
_LARGEST_GAP = {"float32": 0.01, "bfloat16": 0.1}


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
        prompt_length: Positions of a prompt, image included.
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
    value_coefficient: Annotated[float | None, Range(0, 1e6)] = from_recipe()
    pads: Literal["masked", "counted"] | None = from_recipe()


def run(options: Options) -> None:
    from vlm_jax.checkpoints.adapters import save_adapter
    from vlm_jax.parallel.compile import place
    from vlm_jax.runs.begin import begin
    from vlm_jax.runs.loop import Pace, train
    from vlm_jax.runs.rollouts import rollout_and_update
    from vlm_jax.train.optim import start
    from vlm_jax.train.ppo import first_params

    options = complete(options)
    begun = begin(options, options.out / "adapter", options.out / "run.json", options.checkpoint)
    if begun.finished():
        return
    check_view(options.view, options.reward)
    rows = read_records(options)
    model = open_for_training(options, options.reward)
    records = checked(options, begun, rows, encoder_of(options, model))
    frozen = frozen_roles(options, model)
    settings = settings_of(options)
    state = place(model.mesh, start(settings.optim, first_params(model.config, frozen)))
    step = rollout_and_update(model, settings, frozen, state, records, options.out / "answers", options.seed)
    gap = _LARGEST_GAP[model.config.dtype]
    pace = Pace(
        "ppo",
        options.steps,
        options.save_every,
        log_every=1,
        shown=("reward", "kl", "length"),
        bounds={"log_prob_gap": gap, "sampler_gap": gap},
    )
    state = train(begun, pace, model.mesh, state, step, batches_of(options, model, records))
    save_adapter(begun.result, model.config, state.params["policy"])
    print(begun.result)


def complete(options: Options) -> Options:
    """With every figure filled in, and checked as far as options alone tell.

    Raises:
        InputError: A figure is out of its range.
    """
    from vlm_jax.errors import require_parts

    options = with_recipe(options, "ppo", facts=options.view.facts is not None)
    require_parts(options.batch_size, options.minibatches * options.microbatches, "parts (minibatches x microbatches)")
    return options


def settings_of(options: Options) -> "PpoSettings":
    """Complete options as the steps take them."""
    from vlm_jax.generate.sampling import Sampling
    from vlm_jax.train.ppo import PpoSettings
    from vlm_jax.train.reward_terms import RewardTerms

    updates = options.epochs * options.minibatches
    same = ("kl_coefficient", "kl_estimator", "reward_scale", "gamma", "lam", "clip", "value_clip", "value_coefficient")
    same += ("epochs", "minibatches", "microbatches", "pads")
    return PpoSettings(
        optim=optim_of(options, options.steps * updates, round(options.warmup * updates)),
        sampling=Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature),
        terms=RewardTerms(options.stop_penalty, options.length_coefficient, options.correct_bonus),
        **{name: getattr(options, name) for name in same},
    )


def read_records(options: Options) -> "list[Prompt]":
    """The prompts, with their facts where the reward model reads facts."""
    from vlm_jax.data.sources import read_captions, read_prompts

    facts = read_captions(options.view.facts) if options.view.facts else None
    return read_prompts(options.prompts, options.images, facts)


def encoder_of(options: Options, model: "Model") -> "Callable[[Prompt], Any]":
    """What raises where a prompt or its evaluation turn does not fit."""
    from vlm_jax.data.pipelines import prompt_text

    lengths = options.prompt_length, options.suffix_length
    turn = evaluation_turn(options.view.reward_prompt)
    text = prompt_text(model.tokenizer, model.config, model.template, *lengths, turn)
    return lambda record: text(record, record.facts)


def frozen_roles(options: Options, model: "Model") -> "Params":
    """Reference and reward model.

    Raises:
        InputError: The reward model has no head.
    """
    from vlm_jax.checkpoints.opening import open_role
    from vlm_jax.errors import InputError

    frozen = {"reference": open_role(model, options.policy), "reward": open_role(model, options.reward)}
    if "head" not in frozen["reward"]:
        raise InputError("an adapter without a reward head", "what `vlm-jax reward` wrote", file=str(options.reward))
    return frozen


def batches_of(options: Options, model: "Model", records: "Sequence[Prompt]"):
    from vlm_jax.data.pipelines import prompt_batches

    return prompt_batches(
        records,
        model.tokenizer,
        model.config,
        model.template,
        options.batch_size,
        options.prompt_length,
        options.suffix_length,
        evaluation_turn(options.view.reward_prompt),
        options.seed,
        reward_resolution=options.view.resolution,
    )
