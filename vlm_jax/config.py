"""Model shapes as frozen dataclasses, and the named presets.

A config holds only what decides array shapes and the arithmetic of one forward pass, so it is hashable and can be
a static argument of a jitted function. What decides a training run (rates, steps, batch sizes) lives beside the
step that reads it in ``vlm_jax/train``.
"""

import dataclasses
from typing import Literal, get_args

# Mean and standard deviation of the RGB channels that OpenAI's CLIP was trained with.
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
# How an image becomes a square: see :func:`own_steps`.
Aspect = Literal["pad", "square"]
# Pillow's number of the filter.
_BICUBIC = 3
# Ways to write out a conversation; ``chat`` is the tokenizer's own template.
TemplateName = Literal["vicuna_v1", "llava_v1", "plain", "llava_llama_2", "mistral_instruct", "chatml_direct", "chat"]


@dataclasses.dataclass(frozen=True)
class ImageSteps:
    """What transformers' image processors of CLIP and LLaVA do to an RGB image before they normalise it, in this order.

    Attributes:
        pad: To a square of CLIP's mean colour.
        resize: The shorter edge, or height and width; None for not at all.
        resample: Pillow's number of the filter.
        crop: Height and width of the centre that is kept, black where the image is smaller; None for all.
    """

    pad: bool
    resize: int | tuple[int, int] | None
    resample: int
    crop: tuple[int, int] | None


def own_steps(aspect: Aspect, size: int) -> ImageSteps:
    """What makes an image the square that LLaVA was trained on, of ``size`` pixels.

    "pad" keeps the whole image on a square of the background colour (LLaVA's ``expand2square``); "square" keeps the
    centre and loses what lies outside.

    Raises:
        ValueError: Another aspect.
    """
    if aspect not in get_args(Aspect):
        raise ValueError(f"aspect must be 'pad' or 'square', not {aspect!r}")
    return ImageSteps(pad=aspect == "pad", resize=size, resample=_BICUBIC, crop=(size, size))


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """How rotary frequencies are stretched for texts longer than those of the first training.

    ``linear`` divides them by ``factor``; ``dynamic`` raises their base with the length of a text that is longer than
    ``max_positions``; ``llama3`` divides the slow ones, leaves the fast ones, and blends between
    ``original_positions / high`` and ``original_positions / low`` positions a turn.
    """

    kind: Literal["linear", "dynamic", "llama3"]
    factor: float
    low: float = 1.0
    high: float = 4.0
    original_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class VisionConfig:
    """CLIP's vision transformer."""

    image_size: int = 224
    patch_size: int = 14
    width: int = 1024
    layers: int = 24
    heads: int = 16
    mlp_width: int = 4096
    norm_eps: float = 1e-5
    # Index into [embeddings, block 1, ..., block L]; -2 is LLaVA's penultimate layer.
    feature_layer: int = -2

    @property
    def patches(self) -> int:
        return (self.image_size // self.patch_size) ** 2

    @property
    def blocks_run(self) -> int:
        """How many blocks a feature extraction needs: block 24 of ViT-L is never run by LLaVA."""
        return self.feature_layer % (self.layers + 1)


@dataclasses.dataclass(frozen=True)
class ClipTextConfig:
    """CLIP's causal text transformer."""

    vocab_size: int = 49408
    positions: int = 77
    width: int = 768
    layers: int = 12
    heads: int = 12
    mlp_width: int = 3072
    norm_eps: float = 1e-5


@dataclasses.dataclass(frozen=True)
class ClipConfig:
    """Both CLIP towers and the width of the space they meet in."""

    vision: VisionConfig = VisionConfig()
    text: ClipTextConfig = ClipTextConfig()
    projection_width: int = 768


@dataclasses.dataclass(frozen=True)
class LanguageConfig:
    """A LLaMA decoder (Vicuna v1.5 is LLaMA-2)."""

    vocab_size: int = 32000
    width: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    mlp_width: int = 11008
    norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    max_positions: int = 4096
    rope_scaling: RopeScaling | None = None

    @property
    def head_width(self) -> int:
        return self.width // self.heads


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters on the seven projections of every decoder block; LLaVA-RLHF's shape by default."""

    rank: int = 64
    alpha: float = 16.0

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclasses.dataclass(frozen=True)
class LlavaConfig:
    """A LLaVA: vision tower, projector, decoder, and the ids that the text around an image uses.

    ``image_token_id`` marks the positions that image features fill. It may lie outside the vocabulary (original
    LLaVA has 32000 rows and no row for it) since those positions are replaced before the embedding look-up.
    """

    vision: VisionConfig = VisionConfig()
    language: LanguageConfig = LanguageConfig()
    lora: LoraConfig = LoraConfig()
    projector: Literal["linear", "mlp"] = "mlp"
    image_token_id: int = 32000
    # Ids of the tokens that stand before and after an image (LLaVA v0 and v1 with mm_use_im_start_end).
    image_ends: tuple[int, int] | None = None
    pad_token_id: int = 0
    bos_token_id: int = 1
    eos_token_id: int = 2
    # Further ids at which an answer ends; training teaches the one above.
    end_token_ids: tuple[int, ...] = ()
    # Arithmetic type of activations; weights keep the type they are stored in.
    dtype: Literal["float32", "bfloat16"] = "bfloat16"
    # How conversations were written out when the weights were trained: see ``data.chat_template.template_named``.
    template: TemplateName = "vicuna_v1"
    # How images were made square when the weights were trained.
    aspect: Aspect = "pad"
    # Set where the model is asked as transformers asks it: what its image processor does in place of ``aspect``. Texts
    # are then tokenised at once (``data.whole_text``), and answers may hold the image's token.
    as_transformers: ImageSteps | None = None
    # What a backward pass keeps of each decoder block: everything, the matrix products, or the block input alone.
    remat: Literal["none", "dots", "block"] = "block"
    # Whether training compiles every decoder block by itself in place of one for all: minutes of compiling, and no
    # weights or states of a layer are copied out of a stack and into it, which GPUs do.
    unroll: bool = False
    # By what attention is computed, see ``models.attend``; "auto" is the platform's.
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"

    @property
    def image_steps(self) -> ImageSteps:
        """What makes an image the square that the tower reads."""
        return self.as_transformers or own_steps(self.aspect, self.vision.image_size)


_VICUNA_13B = LanguageConfig(width=5120, layers=40, heads=40, kv_heads=40, mlp_width=13824)
_VIT_L_336 = VisionConfig(image_size=336)

PRESETS: dict[str, LlavaConfig] = {
    "scenes-tiny": LlavaConfig(
        vision=VisionConfig(image_size=48, patch_size=16, width=96, layers=4, heads=4, mlp_width=384),
        language=LanguageConfig(
            vocab_size=512, width=128, layers=4, heads=4, kv_heads=4, mlp_width=352, max_positions=512
        ),
        lora=LoraConfig(rank=8, alpha=16.0),
        image_token_id=3,
        dtype="float32",
        template="plain",
        remat="none",
    ),
    "llava-1.5-7b": LlavaConfig(vision=_VIT_L_336),
    "llava-1.5-13b": LlavaConfig(vision=_VIT_L_336, language=_VICUNA_13B),
    # LLaVA-RLHF's released models: a single linear projector; the 7B one sees 224-pixel images.
    "llava-rlhf-7b": LlavaConfig(projector="linear"),
    "llava-rlhf-13b": LlavaConfig(vision=_VIT_L_336, language=_VICUNA_13B, projector="linear"),
}

# The CLIP that each LLaVA above takes its vision tower from.
CLIP_PRESETS: dict[str, ClipConfig] = {
    "clip-vit-large-patch14": ClipConfig(),
    "clip-vit-large-patch14-336": ClipConfig(vision=_VIT_L_336),
    "scenes-tiny": ClipConfig(
        vision=PRESETS["scenes-tiny"].vision,
        text=ClipTextConfig(vocab_size=512, positions=64, width=96, layers=2, heads=4, mlp_width=384),
        projection_width=96,
    ),
}
