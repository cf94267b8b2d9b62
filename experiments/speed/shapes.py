"""What both sides compute on: shapes of a model, its random weights on disk, and one batch of made-up rows."""

import dataclasses
from pathlib import Path
from typing import NamedTuple

import numpy as np

from vlm_jax.config import LanguageConfig, LlavaConfig, LoraConfig, VisionConfig

# Adapters of PPO, and of the other steps: what is trained there is called policy as well.
ROLES = ("policy", "reference", "value", "reward")
# Positions of the turn that asks the reward model, behind an answer.
TURN = 16


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and a batch.

    Attributes:
        config: Of the model; float32, nothing recomputed in a backward pass.
        rows: Of a batch.
        length: Positions of a row, image included.
        answer: How many of them, at the end, are the answer: what losses count and what is sampled.
    """

    config: LlavaConfig
    rows: int
    length: int
    answer: int = 64

    @property
    def prompt(self) -> int:
        """Positions before the answer."""
        return self.length - self.answer


class Inputs(NamedTuple):
    """A batch without padding; the image stands behind the first token.

    Attributes:
        tokens: [b, t] int32.
        image_mask: [b, t] bool, positions of the image.
        images: [b, h, w, 3] uint8.
        turn: [b, s] int32, the reward model's turn.
    """

    tokens: np.ndarray
    image_mask: np.ndarray
    images: np.ndarray
    turn: np.ndarray


def model(vision: VisionConfig, language: LanguageConfig, image_token_id: int) -> LlavaConfig:
    """LLaVA-1.5's build in these sizes, with LLaVA-RLHF's adapters."""
    return LlavaConfig(
        vision=vision,
        language=language,
        lora=LoraConfig(rank=64, alpha=16.0),
        image_token_id=image_token_id,
        dtype="float32",
        remat="none",
        # As `--unroll` has it: a run of any length is better off, and torch has no stacks to cut layers out of either.
        unroll=True,
    )


SHAPES = {
    "tiny": Shape(
        model(
            VisionConfig(image_size=56, patch_size=14, width=64, layers=3, heads=4, mlp_width=256),
            LanguageConfig(vocab_size=1024, width=128, layers=4, heads=4, kv_heads=4, mlp_width=352),
            image_token_id=3,
        ),
        rows=8,
        length=113,
    ),
    "mid": Shape(
        model(
            VisionConfig(image_size=224, patch_size=14, width=256, layers=6, heads=4, mlp_width=1024),
            LanguageConfig(vocab_size=32064, width=512, layers=8, heads=8, kv_heads=8, mlp_width=1376),
            image_token_id=3,
        ),
        rows=2,
        length=385,
    ),
}


def inputs(shape: Shape, length: int | None = None) -> Inputs:
    """Rows of random tokens around a random image; the same for the same shape.

    Args:
        shape: Of the batch.
        length: How many positions from the left; all without.
    """
    rng, config = np.random.default_rng(0), shape.config
    span = slice(1, 1 + config.vision.patches)
    if span.stop >= shape.prompt:
        raise ValueError(f"a prompt of {shape.prompt} positions with {config.vision.patches} of an image")
    first = config.image_token_id + 1
    tokens = rng.integers(first, config.language.vocab_size, (shape.rows, shape.length), dtype=np.int32)
    image_mask = np.zeros(tokens.shape, bool)
    image_mask[:, span] = True
    tokens[image_mask] = config.image_token_id
    side = config.vision.image_size
    images = rng.integers(0, 256, (shape.rows, side, side, 3), dtype=np.uint8)
    turn = rng.integers(first, config.language.vocab_size, (shape.rows, TURN), dtype=np.int32)
    return Inputs(tokens[:, :length], image_mask[:, :length], images, turn)


def heads(shape: Shape) -> dict[str, np.ndarray]:
    """Kernels [d] of the value and the reward head; their biases are zero."""
    width = shape.config.language.width
    rng = np.random.default_rng(1)
    return {role: (rng.standard_normal(width) / np.sqrt(width)).astype(np.float32) for role in ("value", "reward")}


def base_folder(folder: Path) -> Path:
    """Where the base lies, in transformers' layout."""
    return folder / "base"


def adapter_folder(folder: Path, role: str) -> Path:
    """Where a role's adapter lies, as peft writes it."""
    return folder / role
