"""Answer a prompt about an image, with a checkpoint or an adapter over it. Any JPEG or PNG will do.

Example: vlm-jax generate --checkpoint tiny --image photo.jpg --prompt "What is in the picture?"
"""

import dataclasses
from pathlib import Path

from vlm_jax.checkpoints.opening import MeshOptions


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
        mesh: Layout of the devices.
    """

    checkpoint: str
    prompt: str
    image: Path | None = None
    adapter: Path | None = None
    max_new_tokens: int = 128
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int = 0
    max_length: int = 1024
    preset: str | None = None
    mesh: MeshOptions = MeshOptions()


def run(options: Options) -> None:
    from vlm_jax.checkpoints.opening import open_model, open_policy
    from vlm_jax.data.assemble import require_one_each
    from vlm_jax.data.conversation import IMAGE, Turn
    from vlm_jax.data.images import load_image
    from vlm_jax.data.pipelines import image_prompts
    from vlm_jax.data.sources import Prompt
    from vlm_jax.generate.answers import answer
    from vlm_jax.generate.sampling import Sampling

    sampling = Sampling(options.max_new_tokens, options.temperature, options.top_p, options.top_k)
    text = options.prompt if options.image is None else f"{IMAGE}\n{options.prompt}"
    record = Prompt(id="prompt", image=options.image, turns=(Turn("human", text),))
    # Before the model is loaded: a mistyped name should not cost a minute.
    require_one_each(record)
    if options.image is not None:
        load_image(options.image)
    model = open_model(options.checkpoint, options.mesh, options.preset, options.adapter)
    buckets = [length for length in (64, 128, 256, 512, 1024) if length < options.max_length]
    buckets.append(options.max_length)
    # The devices share a batch evenly: rows are filled up, fillers are not answered.
    rows = options.mesh.data * options.mesh.fsdp
    batches = image_prompts([record], model.tokenizer, model.config, model.template, rows, buckets)
    lora = open_policy(model, options.adapter)
    print(answer(model, lora, batches, sampling, options.seed)[0])
