"""How large every step is at full size, preset by preset: what the recipes say, facts included."""

from collections.abc import Mapping
from typing import Any

from vlm_jax import recipes
from vlm_jax.config import PRESETS

TRAINING = ("sft lora", "sft full", "reward", "ppo")
STEPS = (*TRAINING, "rollout", "generate", "forward")
# Whose recipe says how large a step is.
_STAGES = {
    "sft lora": "sft-lora",
    "sft full": "sft-full",
    "reward": "reward",
    "ppo": "ppo",
    "rollout": "ppo",
    "generate": "answer",
    "forward": "sft-lora",
}


def _sizes(preset: str, step: str) -> Mapping[str, Any]:
    figures = recipes.read(f"{preset}/{_STAGES[step]}").figures(facts=True)
    if step == "generate":
        return figures | {"max_length": max(figures["prompt_lengths"])}
    return figures


# preset -> step -> options that decide shapes, and others.
SIZES = {preset: {step: _sizes(preset, step) for step in STEPS} for preset in PRESETS}
