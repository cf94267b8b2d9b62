"""PPO in plain torch with four adapters over one base: policy, reference, value and reward model.

The same algorithm as ``vlm_jax.train.ppo`` (Schulman et al. 2017; Ouyang et al. 2022) with its coefficients, written as
one would with transformers and peft: ``set_adapter`` chooses the role, ``generate`` samples.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np
import peft
import torch
from torch import nn

from experiments.speed import torch_side
from experiments.speed.shapes import ROLES, Shape, heads, inputs
from experiments.speed.work import Figures, Work


@dataclasses.dataclass(frozen=True)
class Settings:
    """As ``vlm_jax.train.ppo.PpoSettings`` has them; a test compares the two."""

    kl_coefficient: float = 0.1
    reward_scale: float = 10.0
    gamma: float = 1.0
    lam: float = 1.0
    clip: float = 0.2
    value_clip: float = 0.2
    value_coefficient: float = 0.1
    epochs: int = 2
    minibatches: int = 2


class Roles(NamedTuple):
    """One model with four adapters, and two heads."""

    model: peft.PeftModel
    value_head: nn.Linear
    reward_head: nn.Linear

    def trained(self) -> list[nn.Parameter]:
        """Both adapters that learn, and the value head."""
        named = self.model.named_parameters()
        adapters = [weight for name, weight in named if ".policy." in name or ".value." in name]
        return [*adapters, *self.value_head.parameters()]


class Measured(NamedTuple):
    """Answers and what was made of them: [b, t] ids, [b, r] figures, [b] scores."""

    tokens: torch.Tensor
    pixel_values: torch.Tensor
    log_probs: torch.Tensor
    reference_log_probs: torch.Tensor
    values: torch.Tensor
    scores: torch.Tensor


def load_roles(shape: Shape, folder: Path) -> Roles:
    kernels = heads(shape)
    value, reward = (torch_side.scalar_head(kernels[role]) for role in ("value", "reward"))
    return Roles(torch_side.load_adapted(folder, ROLES).eval(), value, reward.requires_grad_(False))


def _reading(tokens: torch.Tensor, pixel_values: torch.Tensor) -> dict[str, torch.Tensor]:
    return {"input_ids": tokens, "attention_mask": torch.ones_like(tokens), "pixel_values": pixel_values}


def log_probs_of(
    shape: Shape, model: peft.PeftModel, role: str, tokens: torch.Tensor, pixel_values: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Of each answer token, and the entropy there; logits of the answer alone are made."""
    model.set_adapter(role)
    reading = _reading(tokens, pixel_values)
    logits = model(**reading, logits_to_keep=shape.answer + 1, use_cache=False).logits[:, :-1]
    log_p = logits.log_softmax(-1)
    chosen = log_p.gather(-1, tokens[:, -shape.answer :, None])[..., 0]
    with torch.no_grad():
        entropy = -(log_p.exp() * log_p).sum(-1)
    return chosen, entropy


def values_of(shape: Shape, roles: Roles, tokens: torch.Tensor, pixel_values: torch.Tensor) -> torch.Tensor:
    """Before each answer token."""
    roles.model.set_adapter("value")
    hidden = torch_side.hidden_states(roles.model, _reading(tokens, pixel_values))
    return roles.value_head(hidden[:, -shape.answer - 1 : -1])[..., 0]


@torch.no_grad()
def measure(shape: Shape, roles: Roles, answers: np.ndarray) -> Measured:
    """What the four roles make of answers [b, r] to the shape's prompts."""
    given = inputs(shape, shape.prompt)
    tokens = torch.from_numpy(np.concatenate([given.tokens, answers], 1)).long()
    asked = torch.cat([tokens, torch.from_numpy(given.turn).long()], 1)
    pixels = torch_side.read(given)["pixel_values"]
    log_probs, reference = (
        log_probs_of(shape, roles.model, role, tokens, pixels)[0] for role in ("policy", "reference")
    )
    values = values_of(shape, roles, tokens, pixels)
    roles.model.set_adapter("reward")
    last = torch_side.hidden_states(roles.model, _reading(asked, pixels))[:, -1]
    return Measured(tokens, pixels, log_probs, reference, values, roles.reward_head(last)[:, 0])


@torch.no_grad()
def sample(shape: Shape, roles: Roles, cache: str) -> np.ndarray:
    """Answers of the policy at temperature 1, from the whole distribution."""
    roles.model.set_adapter("policy")
    batch = torch_side.read(inputs(shape, shape.prompt))
    how = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0, "cache_implementation": cache}
    return torch_side.answers(shape, roles.model, batch, **how)


def advantages_of(settings: Settings, measured: Measured) -> tuple[torch.Tensor, torch.Tensor]:
    """Whitened advantages, and returns [b, r]: -KL on every token and the score on the last one."""
    rewards = -settings.kl_coefficient * (measured.log_probs - measured.reference_log_probs)
    rewards[:, -1] += measured.scores
    rewards, values = settings.reward_scale * rewards, measured.values
    following, advantage, found = torch.zeros_like(values[:, 0]), torch.zeros_like(values[:, 0]), []
    for slot in reversed(range(values.shape[1])):
        delta = rewards[:, slot] + settings.gamma * following - values[:, slot]
        advantage = delta + settings.gamma * settings.lam * advantage
        following = values[:, slot]
        found.append(advantage)
    advantages = torch.stack(found[::-1], 1)
    centred = advantages - advantages.mean()
    return centred * torch.rsqrt(centred.square().mean() + 1e-8), advantages + values


def update(
    shape: Shape,
    settings: Settings,
    roles: Roles,
    optimizer: torch.optim.Optimizer,
    measured: Measured,
    orders: np.ndarray,
) -> dict[str, float]:
    """All minibatches (rows of ``orders``); means of their policy and value losses."""
    advantages, returns = advantages_of(settings, measured)
    policy_losses, value_losses = [], []
    for rows in torch.from_numpy(np.asarray(orders)).long():
        optimizer.zero_grad(set_to_none=True)
        old = Measured(*(leaf[rows] for leaf in measured))
        log_probs, _ = log_probs_of(shape, roles.model, "policy", old.tokens, old.pixel_values)
        ratio, chosen = (log_probs - old.log_probs).exp(), advantages[rows]
        clipped = ratio.clamp(1 - settings.clip, 1 + settings.clip)
        policy_loss = -torch.minimum(ratio * chosen, clipped * chosen).mean()
        # At once: choosing the next role takes this one's weights out of what is trained.
        policy_loss.backward()
        values = values_of(shape, roles, old.tokens, old.pixel_values)
        kept = old.values + (values - old.values).clamp(-settings.value_clip, settings.value_clip)
        errors = torch.maximum((values - returns[rows]).square(), (kept - returns[rows]).square())
        value_loss = 0.5 * errors.mean()
        (settings.value_coefficient * value_loss).backward()
        nn.utils.clip_grad_norm_(roles.trained(), torch_side.CLIP_NORM)
        optimizer.step()
        policy_losses.append(policy_loss.item())
        value_losses.append(value_loss.item())
    return {"policy_loss": float(np.mean(policy_losses)), "value_loss": float(np.mean(value_losses))}


def drawn_orders(settings: Settings, rows: int, generator: torch.Generator) -> np.ndarray:
    """Rows [epochs * minibatches, rows / minibatches]."""
    size = rows // settings.minibatches
    epochs = [torch.randperm(rows, generator=generator).reshape(-1, size) for _ in range(settings.epochs)]
    return torch.cat(epochs).numpy()


def ppo(shape: Shape, folder: Path, cache: str = "dynamic") -> Work:
    settings, roles = Settings(), load_roles(shape, folder)
    optimizer = torch_side.optimizer_of(roles.trained())
    generator = torch.Generator().manual_seed(0)

    def iteration(given: Figures | None) -> Figures:
        answers = sample(shape, roles, cache)
        orders = drawn_orders(settings, shape.rows, generator)
        if given is not None:
            answers, orders = given["answers"], given["orders"]
        measured = measure(shape, roles, answers)
        losses = update(shape, settings, roles, optimizer, measured, orders)
        named = measured._asdict() | losses
        del named["tokens"], named["pixel_values"]
        return {name: np.asarray(value) for name, value in named.items()}

    return Work(lambda: None, iteration)
