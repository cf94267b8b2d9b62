"""PPO from a reward model (Schulman et al. 2017; Ouyang et al. 2022), as LLaVA-RLHF applies it to images.

One step is three compiled functions. Between them the host sees how long the answers are (what follows is as wide as
the longest of them), and turns them into text for the log and for rules that read text:

    sample_answers: an answer to every prompt
    measure:        log-probs of policy and reference, values, reward scores (one forward each)
    ppo_update:     token rewards -> advantages -> epochs x minibatches of clipped policy and value losses

Policy, reference, reward and value are adapters over one base. ``state.params`` is ``{"policy": {"lora"}, "value":
{"lora", "head"}}``; ``frozen`` is ``{"reference": {"lora"}, "reward": {"lora", "head"}}``.
"""

import dataclasses
from typing import Literal

import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int32

from vlm_jax.arrays import Batch, Generation, Params, PromptBatch
from vlm_jax.config import LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.generate.decode import generate
from vlm_jax.generate.sampling import Part, Sampling
from vlm_jax.models.adapters import init_value_head
from vlm_jax.models.llava import forward, scores
from vlm_jax.train.advantages import KlEstimator, generalised_advantages, kl_estimate, whiten
from vlm_jax.train.losses import clipped_policy_loss, clipped_value_loss, masked_mean, token_log_probs
from vlm_jax.train.optim import Optim, TrainState, apply_gradients, join_rows, split_rows, summed
from vlm_jax.train.reward import reward_scores
from vlm_jax.train.reward_terms import RewardTerms, total_reward


@flax.struct.dataclass
class Rollout:
    """Answers and everything measured about them before the update. Float arrays are 0 on padding in ``masked`` mode.

    ``sequences`` holds prompt and answer side by side; the answer starts at column ``sequences.t - r``.
    ``sampler_log_probs`` are those of the distribution that each token was drawn from.
    """

    sequences: Batch
    mask: Bool[Array, "b r"]
    log_probs: Float[Array, "b r"]
    sampler_log_probs: Float[Array, "b r"]
    reference_log_probs: Float[Array, "b r"]
    values: Float[Array, "b r"]
    scores: Float[Array, " b"]
    ended: Bool[Array, " b"]
    lengths: Int32[Array, " b"]
    length_bonus: Float[Array, " b"]

    @property
    def answers(self) -> Int32[Array, "b r"]:
        """The sampled ids."""
        return self.sequences.tokens[:, -self.mask.shape[1] :]


@dataclasses.dataclass(frozen=True)
class PpoSettings:
    """Defaults are LLaVA-RLHF's coefficients with padding masked out.

    ``pads`` says what padding does to means and whitening. The released code counts it (``counted``): every mean runs
    over all slots, the reward stands on the last slot, and the value loss trains padding. ``masked`` leaves padding
    out of everything and puts the reward on the last real token. With gamma = lambda = 1 the real tokens' returns are
    the same in both.

    ``rollout_parts`` splits the sampling of a rollout, ``microbatches`` its measuring and each minibatch, into parts
    that are worked through one after the other: the same results in a part of the memory. Sampling reads all weights
    for every token, however few rows there are, and stores no activations: its parts are better large.
    """

    optim: Optim
    sampling: Sampling = Sampling()
    terms: RewardTerms = RewardTerms()
    kl_coefficient: float = 0.1
    kl_estimator: KlEstimator = "k1"
    reward_scale: float = 10.0
    gamma: float = 1.0
    lam: float = 1.0
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    epochs: int = 2
    minibatches: int = 2
    rollout_parts: int = 1
    microbatches: int = 1
    pads: Literal["masked", "counted"] = "masked"

    def __post_init__(self):
        if self.sampling.top_p < 1 or self.sampling.top_k:
            found = f"top_p {self.sampling.top_p} and top_k {self.sampling.top_k} in PPO"
            raise InputError(found, "1 and 0: its ratios are those of the whole distribution")


def first_params(config: LlavaConfig, frozen: Params) -> Params:
    """Policy and value model before the first step: the reference, and the reward model with a head of zeros."""
    # Copies: a step's buffers are donated, the frozen roles' must stay.
    policy, value = (jax.tree.map(jnp.copy, tree) for tree in (frozen["reference"], frozen["reward"]["lora"]))
    return {"policy": policy, "value": {"lora": value, "head": init_value_head(config)}}


def join_answer(prompts: Batch, answer: Generation) -> Batch:
    """Prompt and answer as one batch; the answer's padding is masked, so rows keep their columns."""
    nothing = jnp.zeros_like(answer.mask)
    return Batch(
        tokens=jnp.concatenate([prompts.tokens, answer.tokens], 1),
        attention_mask=jnp.concatenate([prompts.attention_mask, answer.mask], 1),
        image_mask=jnp.concatenate([prompts.image_mask, nothing], 1),
        loss_mask=jnp.concatenate([jnp.zeros_like(prompts.loss_mask), answer.mask], 1),
        images=prompts.images,
    )


def reward_batch(answer: Generation, batch: PromptBatch) -> Batch:
    """Prompt, answer, evaluation turn. Masked gaps change nothing: positions count real tokens only."""
    prompt = batch.prompt if batch.reward_images is None else batch.prompt.replace(images=batch.reward_images)
    sequences = join_answer(prompt, answer)
    nothing = jnp.zeros_like(batch.suffix_mask)
    return Batch(
        tokens=jnp.concatenate([sequences.tokens, batch.suffix_tokens], 1),
        attention_mask=jnp.concatenate([sequences.attention_mask, batch.suffix_mask], 1),
        image_mask=jnp.concatenate([sequences.image_mask, nothing], 1),
        loss_mask=jnp.concatenate([jnp.zeros_like(sequences.loss_mask), nothing], 1),
        images=sequences.images,
    )


def _answer_states(hidden: Float[Array, "b t d"], answer_slots: int) -> Float[Array, "b r d"]:
    """The state BEFORE each answer token: what predicted it."""
    return hidden[:, -answer_slots - 1 : -1]


def answer_log_probs(
    config: LlavaConfig,
    settings: PpoSettings,
    base: Params,
    lora: Params,
    sequences: Batch,
    mask: Bool[Array, "b r"],
) -> tuple[Float[Array, "b r"], Float[Array, "b r"]]:
    """Log-probability of each answer token and the entropy there; log-probabilities are 0 on padding."""
    slots = mask.shape[1]
    hidden = forward(config, base, lora, sequences).hidden
    # At temperature 0 the sampler is greedy; likelihoods then belong to the unscaled model.
    temperature = settings.sampling.temperature or 1.0
    log_probs, entropy = token_log_probs(
        config, base, _answer_states(hidden, slots), sequences.tokens[:, -slots:], temperature
    )
    return jnp.where(mask, log_probs, 0.0), entropy


def answer_values(
    config: LlavaConfig,
    settings: PpoSettings,
    base: Params,
    role: Params,
    sequences: Batch,
    mask: Bool[Array, "b r"],
) -> Float[Array, "b r"]:
    """The value model's estimate before each answer token; 0 on padding unless padding counts."""
    hidden = forward(config, base, role["lora"], sequences).hidden
    values = scores(role["head"], _answer_states(hidden, mask.shape[1]))
    return values if settings.pads == "counted" else jnp.where(mask, values, 0.0)


def rollout(
    config: LlavaConfig,
    settings: PpoSettings,
    base: Params,
    params: Params,
    frozen: Params,
    batch: PromptBatch,
    key: Array,
) -> Rollout:
    """:func:`sample_answers` and :func:`measure`, as wide as the longest answer may be."""
    answer = sample_answers(config, settings, base, params, batch.prompt, key)
    return measure(config, settings, base, params, frozen, answer, batch)


def sample_answers(
    config: LlavaConfig, settings: PpoSettings, base: Params, params: Params, prompts: Batch, key: Array
) -> Generation:
    """One answer of the policy to each prompt. No draw depends on the number of parts."""

    def answers(prompts: Batch, part: Part | None = None) -> Generation:
        return generate(config, base, params["policy"]["lora"], prompts, key, settings.sampling, part=part)

    count = settings.rollout_parts
    if count == 1:
        return answers(prompts)
    numbered = (split_rows(prompts, count), jnp.arange(count))
    return join_rows(jax.lax.map(lambda one: answers(one[0], Part(one[1], count)), numbered))


def measure(
    config: LlavaConfig,
    settings: PpoSettings,
    base: Params,
    params: Params,
    frozen: Params,
    answer: Generation,
    batch: PromptBatch,
) -> Rollout:
    """What policy, reference, value and reward model make of the answers.

    Log-probabilities come from the training forward, not from the sampler, so that the first update sees ratio 1.
    """
    parts = split_rows((answer, batch), settings.microbatches)
    measured = jax.lax.map(lambda part: _measure(config, settings, base, params, frozen, *part), parts)
    return join_rows(measured)


def _measure(
    config: LlavaConfig,
    settings: PpoSettings,
    base: Params,
    params: Params,
    frozen: Params,
    answer: Generation,
    batch: PromptBatch,
) -> Rollout:
    """:func:`measure` of one part."""
    sequences = join_answer(batch.prompt, answer)
    log_probs, _ = answer_log_probs(config, settings, base, params["policy"]["lora"], sequences, answer.mask)
    reference, _ = answer_log_probs(config, settings, base, frozen["reference"]["lora"], sequences, answer.mask)
    return Rollout(
        sequences=sequences,
        mask=answer.mask,
        log_probs=log_probs,
        sampler_log_probs=answer.log_probs,
        reference_log_probs=reference,
        values=answer_values(config, settings, base, params["value"], sequences, answer.mask),
        scores=reward_scores(config, base, frozen["reward"], reward_batch(answer, batch)),
        ended=answer.ended,
        lengths=answer.lengths,
        length_bonus=batch.length_bonus,
    )


def token_rewards(settings: PpoSettings, rollout: Rollout, rewards: Float[Array, " b"]) -> Float[Array, "b r"]:
    """-kl_coefficient * KL on each token, and the answer's reward on one slot, all times ``reward_scale``; float32."""
    kl = kl_estimate(rollout.log_probs, rollout.reference_log_probs, settings.kl_estimator)
    slots = rollout.mask.shape[1]
    last = slots - 1 if settings.pads == "counted" else rollout.lengths[:, None] - 1
    terminal = jnp.where(jnp.arange(slots) == last, rewards[:, None].astype(jnp.float32), 0.0)
    return settings.reward_scale * (terminal - settings.kl_coefficient * kl)


@flax.struct.dataclass
class _Sample:
    """One row of what a minibatch needs."""

    rollout: Rollout
    advantages: Float[Array, "b r"]
    returns: Float[Array, "b r"]


def ppo_loss(
    config: LlavaConfig,
    settings: PpoSettings,
    base: Params,
    params: Params,
    sample: _Sample,
    totals: tuple[Float[Array, ""], Float[Array, ""]],
) -> tuple[Float[Array, ""], dict[str, Array]]:
    """Clipped policy loss + value_coefficient * clipped value loss of one minibatch or a part of it, and its monitors.

    ``totals`` are the slots that count and the real tokens in the whole minibatch: what is returned for its parts adds
    up to the minibatch's means.
    """
    old, mask = sample.rollout, sample.rollout.mask
    slots, tokens = totals

    def counted_mean(values):
        return jnp.where(_counted(settings, mask), values, 0.0).sum() / slots

    def token_mean(values):
        return jnp.where(mask, values, 0.0).sum() / tokens

    log_probs, entropy = answer_log_probs(config, settings, base, params["policy"]["lora"], old.sequences, mask)
    values = answer_values(config, settings, base, params["value"], old.sequences, mask)
    policy_loss = counted_mean(clipped_policy_loss(log_probs, old.log_probs, sample.advantages, settings.clip))
    value_loss = counted_mean(clipped_value_loss(values, old.values, sample.returns, settings.value_clip))
    ratio = jnp.exp(log_probs - old.log_probs)
    metrics = {
        "policy_loss": policy_loss,
        "value_loss": value_loss,
        "ratio": token_mean(ratio),
        "clip_fraction": token_mean((jnp.abs(ratio - 1) > settings.clip).astype(jnp.float32)),
        "approximate_kl": token_mean(0.5 * jnp.square(log_probs - old.log_probs)),
        "entropy": token_mean(entropy),
    }
    return policy_loss + settings.value_coefficient * value_loss, metrics


def _counted(settings: PpoSettings, mask: Bool[Array, "b r"]) -> Bool[Array, "b r"]:
    """The slots that means and whitening run over."""
    return jnp.ones_like(mask) if settings.pads == "counted" else mask


def _root_mean_square(values: Float[Array, "b r"], mask: Bool[Array, "b r"]) -> Float[Array, ""]:
    return jnp.sqrt(masked_mean(jnp.square(values), mask))


def _rollout_metrics(rollout: Rollout, rewards: Float[Array, " b"], returns: Float[Array, "b r"]) -> dict[str, Array]:
    """What the rollout looked like before the update."""
    k1 = rollout.log_probs - rollout.reference_log_probs
    unexplained = masked_mean(jnp.square(returns - rollout.values), rollout.mask)
    spread = masked_mean(jnp.square(returns - masked_mean(returns, rollout.mask)), rollout.mask)
    return {
        "reward": rewards.mean(),
        "score": rollout.scores.mean(),
        "kl": jnp.where(rollout.mask, k1, 0.0).sum(1).mean(),
        "sampler_gap": _root_mean_square(rollout.log_probs - rollout.sampler_log_probs, rollout.mask),
        "kl_k3": jnp.where(rollout.mask, jnp.expm1(-k1) + k1, 0.0).sum(1).mean(),
        "length": rollout.lengths.mean(dtype=jnp.float32),
        "ended": rollout.ended.mean(dtype=jnp.float32),
        "explained_variance": 1 - unexplained / jnp.maximum(spread, 1e-8),
    }


def ppo_update(
    config: LlavaConfig,
    settings: PpoSettings,
    base: Params,
    state: TrainState,
    rollout: Rollout,
    correct: Float[Array, " b"],
    key: Array,
) -> tuple[TrainState, dict[str, Array]]:
    """All epochs and minibatches over one rollout, in one compiled loop.

    Args:
        correct: What ``train.reward_terms.correctness`` found in each answer's text.
        key: Decides the minibatches.

    Returns:
        The new state; means over minibatches of the loss monitors, plus the rollout's own figures: ``reward`` (with
        all terms), ``score`` (reward model alone), ``kl`` and ``kl_k3`` (nats per answer), length, share ended.
        ``first_ratio`` and ``first_approximate_kl`` are the first minibatch's: 1 and 0 where all is well. Root mean
        squares over tokens: ``log_prob_gap`` between log-probabilities as the first update and as the rollout saw
        them (0 but for rounding), ``sampler_gap`` between the rollout's and those that tokens were drawn with, where
        the image placeholder has no share.
    """
    limit = settings.sampling.max_new_tokens
    rewards = total_reward(
        settings.terms, rollout.scores, rollout.ended, rollout.lengths, limit, rollout.length_bonus, correct
    )
    counted = _counted(settings, rollout.mask)
    slot_rewards = jnp.where(counted, token_rewards(settings, rollout, rewards), 0.0)
    advantages, returns = generalised_advantages(slot_rewards, rollout.values, settings.gamma, settings.lam)
    sample = _Sample(rollout=rollout, advantages=whiten(advantages, counted), returns=returns)

    def minibatch(state, rows):
        chosen = jax.tree.map(lambda x: x[rows], sample)
        mask = chosen.rollout.mask
        totals = tuple(jnp.maximum(slots.sum(), 1).astype(jnp.float32) for slots in (_counted(settings, mask), mask))
        gradient = jax.grad(lambda params, part: ppo_loss(config, settings, base, params, part, totals), has_aux=True)
        parts = split_rows(chosen, settings.microbatches)
        gradients, metrics = summed(lambda part: gradient(state.params, part), parts)
        state, optimizer_metrics = apply_gradients(settings.optim, state, gradients)
        return state, metrics | optimizer_metrics

    rows = len(rollout.lengths)
    orders = [jax.random.permutation(jax.random.fold_in(key, epoch), rows) for epoch in range(settings.epochs)]
    order = jnp.concatenate([split_rows(order, settings.minibatches) for order in orders])
    state, metrics = jax.lax.scan(minibatch, state, order)
    first = {f"first_{name}": metrics[name][0] for name in ("ratio", "approximate_kl")}
    # Half of the mean square of the differences is what the first minibatch calls its approximate KL.
    first["log_prob_gap"] = jnp.sqrt(2 * first["first_approximate_kl"])
    means = {name: values.mean() for name, values in metrics.items()}
    return state, means | first | _rollout_metrics(rollout, rewards, returns)
