"""Answer a prompt about an image, with a checkpoint or an adapter over it. Any JPEG or PNG will do.

vlm-jax generate --checkpoint tiny --image photo.jpg --prompt "What is in the picture?"
"""

import dataclasses
from pathlib import Path
from typing import Annotated, Literal

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.ranges import LARGEST_COUNT, LARGEST_SEED, Range


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        checkpoint: Folder in transformers' LLaVA layout or of `vlm-jax convert`, or `tiny`.
        prompt: What to ask; the picture stands in front of it, wherever it says <image>.
        image: The picture (JPEG, PNG, WebP, GIF, BMP, TIFF or PPM); without one the model gets text alone.
        adapter: Adapter folder, as `sft` and `ppo` write it.
        max_new_tokens: Limit of the answer.
        temperature: 0 always takes the most likely token.
        top_p: Draw from the most likely tokens that reach this probability.
        top_k: Draw from this many most likely tokens; 0 from all.
        seed: Of the draws.
        max_length: Most positions that the prompt may take, image included.
        preset: Refuse a checkpoint that is not this preset.
        like: `transformers` reads pictures and prompts as its processor makes them from the checkpoint's own files;
            `llava` as LLaVA's training had them. Left out: as the adapter was trained, else as the checkpoint says,
            which is mostly `llava`.
        dtype: Arithmetic; the checkpoint's own without.
        attention: What computes it: `auto` is cuDNN's kernel on GPUs, Pallas' on TPUs, XLA elsewhere and in float32.
        mesh: Layout of the devices.
    """

    checkpoint: str
    prompt: str
    image: Path | None = None
    adapter: Path | None = None
    max_new_tokens: Annotated[int, Range(1, 1 << 20)] = 128
    temperature: Annotated[float, Range(0, 100)] = 0.0
    top_p: Annotated[float, Range(0, 1, open=True)] = 1.0
    top_k: Annotated[int, Range(0, LARGEST_COUNT)] = 0
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    max_length: Annotated[int, Range(1, 1 << 20)] = 1024
    preset: str | None = None
    like: Literal["llava", "transformers"] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    from vlm_jax.data.images import load_image
    from vlm_jax.generate.sampling import Sampling
    from vlm_jax.scripting.model import load
    from vlm_jax.scripting.rows import aligned, prompts

    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p, options.top_k)
    # Before the model is loaded: a mistake should not cost a minute.
    prompts(aligned(images=options.image, questions=options.prompt))
    if options.image is not None:
        load_image(options.image)
    how = {
        "dtype": options.dtype,
        "attention": options.attention,
        "mesh": options.mesh,
        "preset": options.preset,
        "like": options.like,
    }
    model = load(options.checkpoint, options.adapter, **how)
    settings = dataclasses.asdict(sampling) | {"seed": options.seed, "max_length": options.max_length}
    print(model.answer(options.image, options.prompt, **settings)[0])
