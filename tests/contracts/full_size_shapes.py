"""How large every step is at full size, preset by preset: what the recipes say, facts included."""

from collections.abc import Mapping
from typing import Any

from vlm_jax import recipes
from vlm_jax.config import PRESETS

TRAINING = ("sft lora", "sft full", "reward", "ppo")
STEPS = (*TRAINING, "rollout", "generate", "forward")
# A step's recipe where it is not called after the step.
_STAGES = {
    "sft lora": "sft-lora",
    "sft full": "sft-full",
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
