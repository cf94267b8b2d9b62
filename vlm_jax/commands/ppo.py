"""Optimise a policy against a reward model with PPO (Schulman et al. 2017), as LLaVA-RLHF does, images included.

Policy, reference, reward and value are adapters over one checkpoint. The policy starts as the reference: the bare
checkpoint, or `--policy`. The value model starts as the reward model with a zero head. `--facts`, `--resolution` and
`--reward-prompt` must say what the reward model read in its training; where its folder tells, they are compared.
OUT/adapter holds the policy, OUT/answers/ one file a rollout with every answer and its score. The same command
continues a run that was stopped.
"""

import dataclasses
from pathlib import Path
from typing import Literal

import tyro

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.commands.reward import RewardView


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        reward: Adapter folder of the reward model.
        prompts: Questions in LLaVA-RLHF's layout.
        images: Folder that the rows' image names are relative to.
        out: Folder of the run.
        policy: Adapter folder that the policy starts from and is held to; the bare checkpoint without.
        view: What the reward model reads beside the answer.
        steps: Rollouts.
        batch_size: Answers a rollout.
        epochs: Passes over a rollout.
        minibatches: Parts of a pass, each one update.
        microbatches: Parts that a minibatch, and the measuring of a rollout, is worked through in.
        prompt_length: Positions of a prompt, image included.
        suffix_length: Positions of the evaluation turn.
        max_new_tokens: Limit of an answer.
        temperature: Of the sampled answers.
        learning_rate: Peak of the cosine schedule.
        kl_coefficient: Price of a nat away from the reference, in units of reward.
        kl_estimator: k1 is unbiased, k1_clamped is the released code's, k3 is unbiased and never negative.
        reward_scale: Factor of all token rewards (10 in the released code).
        stop_penalty: Taken off an answer that does not end.
        length_coefficient: Taken off for length, times each row's length_bonus and the share of the limit used.
        correct_bonus: Added for a known right answer.
        pads: Leave padding out of means, or count it as the released code does.
        save_every: Steps between checkpoints.
        seed: Order of the prompts, and all draws.
        preset: Refuse a checkpoint that is not this preset.
        mesh: Layout of the devices.
    """

    checkpoint: str
    reward: Path
    prompts: Path
    images: Path
    out: Path
    policy: Path | None = None
    view: tyro.conf.OmitArgPrefixes[RewardView] = RewardView()
    steps: int = 40
    batch_size: int = 128
    epochs: int = 2
    minibatches: int = 2
    microbatches: int = 1
    prompt_length: int = 40
    suffix_length: int = 152
    max_new_tokens: int = 56
    temperature: float = 1.0
    learning_rate: float = 1e-3
    kl_coefficient: float = 0.1
    kl_estimator: Literal["k1", "k1_clamped", "k3"] = "k1"
    reward_scale: float = 1.0
    stop_penalty: float = 8.0
    length_coefficient: float = 0.0
    correct_bonus: float = 0.0
    pads: Literal["masked", "counted"] = "masked"
    save_every: int = 20
    seed: int = 0
    preset: str | None = None
    mesh: MeshOptions = MeshOptions()


def settings(options: Options):
    """The options as the steps take them."""
    from vlm_jax.generate.sampling import Sampling
    from vlm_jax.train.optim import Optim
    from vlm_jax.train.ppo import PpoSettings
    from vlm_jax.train.reward_terms import RewardTerms

    updates = options.epochs * options.minibatches
    return PpoSettings(
        # LLaVA-RLHF warms up over five rollouts.
        optim=Optim(options.learning_rate, steps=options.steps * updates, warmup_steps=5 * updates),
        sampling=Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature),
        terms=RewardTerms(options.stop_penalty, options.length_coefficient, options.correct_bonus),
        kl_coefficient=options.kl_coefficient,
        kl_estimator=options.kl_estimator,
        reward_scale=options.reward_scale,
        epochs=options.epochs,
        minibatches=options.minibatches,
        microbatches=options.microbatches,
        pads=options.pads,
    )


def run(options: Options) -> None:
    import functools

    import jax
    import jax.numpy as jnp
    import numpy as np

    from vlm_jax.checkpoints.adapters import save_adapter
    from vlm_jax.checkpoints.opening import open_model, open_role
    from vlm_jax.commands.reward import check_view, evaluation_turn
    from vlm_jax.data.pipelines import prompt_batches
    from vlm_jax.data.sources import read_captions, read_prompts
    from vlm_jax.errors import InputError, require_parts, require_positive
    from vlm_jax.files import write_json_lines
    from vlm_jax.models.adapters import init_value_head
    from vlm_jax.parallel.compile import jit_step, place, place_batch
    from vlm_jax.randomness import key_for
    from vlm_jax.runs.begin import begin
    from vlm_jax.runs.loop import Pace, train
    from vlm_jax.train.optim import start
    from vlm_jax.train.ppo import ppo_update, rollout
    from vlm_jax.train.reward_terms import correctness

    result = options.out / "adapter"
    require_positive(options, "steps", "batch_size", "epochs", "minibatches", "microbatches", "save_every")
    require_positive(options.view, "resolution")
    ppo = settings(options)
    begun = begin(options, result, options.out / "run.json", options.checkpoint)
    if begun.finished():
        return
    require_parts(options.batch_size, options.minibatches * options.microbatches, "parts (minibatches x microbatches)")
    check_view(options.view, options.reward)
    facts = read_captions(options.view.facts) if options.view.facts else None
    records = read_prompts(options.prompts, options.images, facts)
    model = open_model(options.checkpoint, options.mesh, options.preset, options.reward)
    frozen = {"reference": open_role(model, options.policy), "reward": open_role(model, options.reward)}
    if "head" not in frozen["reward"]:
        raise InputError("an adapter without a reward head", "what `vlm-jax reward` wrote", file=str(options.reward))
    # Copies: the state's buffers are donated, the frozen roles' must stay.
    params = {
        "policy": jax.tree.map(jnp.copy, frozen["reference"]),
        "value": {"lora": jax.tree.map(jnp.copy, frozen["reward"]["lora"]), "head": init_value_head(model.config)},
    }
    state = place(model.mesh, start(ppo.optim, params))
    sample = jax.jit(functools.partial(rollout, model.config, ppo))
    update = jit_step(ppo_update, model.mesh, model.config, ppo, state=state)
    log = options.out / "answers"
    log.mkdir(parents=True, exist_ok=True)

    def step(state, batch):
        number = int(state.step) // (ppo.epochs * ppo.minibatches)
        key = key_for(options.seed, "rollout", number)
        measured, tokens = sample(model.base, state.params, frozen, batch, key)
        texts = model.tokenizer.batch_decode(np.asarray(tokens), skip_special_tokens=True)
        kinds = np.asarray(batch.caption_type).tolist()
        right = [correctness(text, kind) for text, kind in zip(texts, kinds, strict=True)]
        scores, index = np.asarray(measured.scores).tolist(), np.asarray(batch.index)
        asked = [records[i] for i in index]
        write_json_lines(
            log / f"{number:05d}.jsonl",
            [
                {"id": record.id, "question": record.turns[-1].text, "answer": text, "score": score}
                for record, text, score in zip(asked, texts, scores, strict=True)
            ],
        )
        correct = place_batch(model.mesh, np.array(right, np.float32))
        return update(model.base, state, measured, correct, key_for(options.seed, "minibatches", number))

    batches = prompt_batches(
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
    pace = Pace("ppo", options.steps, options.save_every, log_every=1, shown=("reward", "kl", "length"))
    state = train(begun, pace, model.mesh, state, step, batches)
    save_adapter(result, model.config, state.params["policy"])
    print(result)
