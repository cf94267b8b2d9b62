"""How large every step is at full size, preset by preset: the one table that the contract tests trace.

Keys are those of the verbs' options. Texts of 1280 tokens for SFT, 128 for a prompt and 896 for an answer are
LLaVA-RLHF's limits; one of a text's tokens stands for the image, whose patches are counted here.
"""

from vlm_jax.config import PRESETS

TRAINING = ("sft lora", "sft full", "reward", "ppo")
STEPS = (*TRAINING, "rollout", "generate", "forward")


def _full_size(image: int) -> dict[str, dict[str, int]]:
    """Of a model that sees an image as so many patches."""
    sft = {"batch_size": 128, "microbatches": 8, "max_length": 1280 - 1 + image}
    ppo = {
        "batch_size": 512,
        "epochs": 2,
        "minibatches": 2,
        "microbatches": 8,
        "prompt_length": 128 - 1 + image,
        "suffix_length": 384,
        "max_new_tokens": 896,
    }
    return {
        "sft lora": sft,
        "sft full": sft,
        "reward": {"batch_size": 32, "microbatches": 2, "max_length": 2048},
        "ppo": ppo,
        "rollout": ppo,
        "generate": {"batch_size": 64, "max_length": 1024, "max_new_tokens": 1024},
        "forward": {"batch_size": 32, "max_length": 2048},
    }


# The tiny model's are the verbs' defaults.
_TINY_SFT = {"batch_size": 32, "microbatches": 1, "max_length": 160}
_TINY_PPO = {
    "batch_size": 128,
    "epochs": 2,
    "minibatches": 2,
    "microbatches": 1,
    "prompt_length": 40,
    "suffix_length": 152,
    "max_new_tokens": 56,
}
_TINY = {
    "sft lora": _TINY_SFT,
    "sft full": _TINY_SFT,
    "reward": {"batch_size": 32, "microbatches": 1, "max_length": 192},
    "ppo": _TINY_PPO,
    "rollout": _TINY_PPO,
    "generate": {"batch_size": 32, "max_length": 64, "max_new_tokens": 128},
    "forward": {"batch_size": 32, "max_length": 192},
}

# preset -> step -> sizes.
SIZES = {
    name: _TINY if name == "scenes-tiny" else _full_size(config.vision.patches) for name, config in PRESETS.items()
}
