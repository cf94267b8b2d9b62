"""Optimise a policy against a reward model with PPO (Schulman et al. 2017), as LLaVA-RLHF does, images included.

Policy, reference, reward and value are adapters over one checkpoint. The policy starts as the reference: the bare
checkpoint, or `--policy`. The value model starts as the reward model with a zero head. `--facts`, `--resolution` and
`--reward-prompt` must say what the reward model read in its training; where its folder tells, they are compared.
OUT/adapter holds the policy, OUT/answers/ one file a rollout with every answer and its score. Figures that are left out
are the recipe's (`vlm-jax recipe list`). The same command continues a run that was stopped.
"""

import dataclasses
import functools
from typing import TYPE_CHECKING

from vlm_jax.commands.ppo_options import Options, complete, settings_of
from vlm_jax.commands.reward_view import check_view, evaluation_turn
from vlm_jax.commands.training import checked, open_for_training

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from vlm_jax.arrays import Params
    from vlm_jax.checkpoints.opening import Model
    from vlm_jax.data.sources import Prompt

# Largest root mean square difference of log-probabilities that are computed twice. In the first update rounding alone
# explains one: in float32 graphics cards multiply with 10 bits of fraction. The sampler computes with a cache, and it
# never draws the image placeholder, whose probability is nearly 0 in any trained model.
_LARGEST_GAPS = {
    "float32": {"log_prob_gap": 0.01, "sampler_gap": 0.1},
    "bfloat16": {"log_prob_gap": 0.1, "sampler_gap": 0.5},
}


def run(options: Options) -> None:
    from vlm_jax.checkpoints.adapters import save_adapter
    from vlm_jax.parallel.compile import place
    from vlm_jax.parallel.memory import require_answering, require_training
    from vlm_jax.runs.begin import begin
    from vlm_jax.runs.loop import Pace, train
    from vlm_jax.runs.rollouts import rollout_and_update
    from vlm_jax.train.optim import start
    from vlm_jax.train.ppo import first_params

    options = complete(options)
    turn = dataclasses.asdict(evaluation_turn(options.view.reward_prompt))
    begun = begin(options, options.out / "adapter", options.out / "run.json", options.checkpoint, reward_turn=turn)
    if begun.finished():
        return
    check_view(options.view, options.reward)
    prompts = read_records(options)
    model = open_for_training(options, options.reward)
    encode = encoder_of(options, model)
    records = checked(options, begun, prompts, encode)
    options = dataclasses.replace(options, prompt_length=prompt_width(options.prompt_length, records, encode))
    frozen = frozen_roles(options, model)
    settings = settings_of(options)
    part = options.batch_size // options.rollout_parts
    remedy = "more --rollout-parts, a smaller --batch-size, or fewer new tokens"
    require_answering(model, part, options.prompt_length, options.max_new_tokens, remedy)
    rows, width = options.batch_size // options.minibatches, options.prompt_length + options.max_new_tokens
    require_training(model, rows, width, options.microbatches, lambda: first_params(model.config, frozen))
    state = place(model.mesh, start(settings.optim, first_params(model.config, frozen)))
    step = rollout_and_update(model, settings, frozen, state, records, options.out / "answers", options.seed)
    pace = Pace(
        "ppo",
        options.steps,
        options.save_every,
        log_every=1,
        shown=("reward", "kl", "length"),
        bounds=_LARGEST_GAPS[model.config.dtype],
    )
    state = train(begun, pace, model.mesh, state, step, batches_of(options, model, records))
    save_adapter(begun.result, model.config, state.params["policy"])
    print(begun.result)


def read_records(options: Options) -> "list[Prompt]":
    """The prompts, with their facts where the reward model reads facts."""
    from vlm_jax.data.sources import read_captions, read_prompts

    facts = read_captions(options.view.facts) if options.view.facts else None
    return read_prompts(options.prompts, options.images, facts, allow_outside=options.allow_outside)


def encoder_of(options: Options, model: "Model") -> "Callable[[Prompt], Any]":
    """What raises where a prompt or its evaluation turn does not fit."""
    from vlm_jax.data.pipelines import prompt_text

    lengths = options.prompt_length, options.suffix_length
    turn = evaluation_turn(options.view.reward_prompt)
    text = prompt_text(model.tokenizer, model.config, model.template, *lengths, turn)
    return lambda record: text(record, record.facts)


def prompt_width(limit: int, records: "Sequence[Prompt]", encode: "Callable[[Prompt], Any]") -> int:
    """What prompts are padded to: as the longest of the run, to the next multiple of 64, and at most the limit."""
    longest = max(len(prompt) for prompt, _ in map(encode, records))
    return min(64 * -(-longest // 64), limit)


def frozen_roles(options: Options, model: "Model") -> "Params":
    """Reference and reward model.

    Raises:
        InputError: The policy has a head, or changes nothing.
    """
    from vlm_jax.checkpoints.opening import open_policy, open_role

    reference = {"lora": open_policy(model, options.policy)}
    return {"reference": reference, "reward": open_role(model, options.reward)}


def batches_of(options: Options, model: "Model", records: "Sequence[Prompt]"):
    from vlm_jax.data.pipelines import prompt_batches
    from vlm_jax.parallel.local_rows import held_rows

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
        held=functools.partial(held_rows, model.mesh),
    )
