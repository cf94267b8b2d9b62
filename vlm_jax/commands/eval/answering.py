"""How a checkpoint answers a benchmark's questions."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vlm_jax.checkpoints.opening import MeshOptions
from vlm_jax.ranges import LARGEST_SEED, Range

if TYPE_CHECKING:
    from vlm_jax.evals.answering.questions import ImageQuestion, Suffix

# Presets whose training had every question as it stands: to these a suffix is noise.
_WITHOUT_SUFFIX = ("scenes-tiny",)


@dataclasses.dataclass(frozen=True)
class Answering:
    """How a checkpoint answers.

    Attributes:
        checkpoint: Answer with this one first: a folder in transformers' LLaVA layout or of `vlm-jax convert`, or
            `tiny`.
        images: Folder of the images; with --answers for the page alone.
        allow_outside: Images may lie outside that folder, where names or links lead out of it.
        adapter: Adapter folder, as `sft` and `ppo` write it.
        suffix: Put behind each question: `own` what LLaVA-1.5 has on this benchmark (`short`, `letter`, or `none` where
            questions are open), and nothing where the checkpoint was trained without, as `tiny` was; `short`
            LLaVA-1.5's single word or phrase, `short_literal` the same as LLaVA-RLHF's scripts spell it, `letter`
            LLaVA-1.5's for options, `one_word` VCD's.
        template: System line: the checkpoint's own, `vicuna_v1` (training) or `llava_v1` (LLaVA-RLHF's evaluations).
        aspect: `pad` shows the whole image, `square` its middle, `own` what the checkpoint was trained with.
        temperature: 0 always takes the most likely token.
        max_new_tokens: Limit of an answer.
        batch_size: Answers at a time.
        seed: Of the draws.
        like: `transformers` reads pictures and prompts as its processor makes them from the checkpoint's own files;
            `llava` as LLaVA's training had them. Left out: as the adapter was trained, else as the checkpoint says,
            which is mostly `llava`.
        dtype: Arithmetic; the checkpoint's own without.
        attention: What computes it: `auto` is cuDNN's kernel on GPUs, Pallas' on TPUs, XLA elsewhere and in float32.
        mesh: Layout of the devices.
    """

    checkpoint: str | None = None
    images: Path | None = None
    allow_outside: bool = False
    adapter: Path | None = None
    suffix: Literal["own", "none", "short", "short_literal", "letter", "one_word"] = "own"
    template: Literal["own", "vicuna_v1", "llava_v1"] = "own"
    aspect: Literal["own", "pad", "square"] = "own"
    temperature: Annotated[float, Range(0, 100)] = 0.0
    max_new_tokens: Annotated[int, Range(1, 65536)] = 1024
    batch_size: Annotated[int, Range(1, 65536)] = 16
    seed: Annotated[int, Range(0, LARGEST_SEED)] = 0
    like: Literal["llava", "transformers"] | None = None
    dtype: Literal["float32", "bfloat16"] | None = None
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"
    mesh: MeshOptions = MeshOptions()


def known_suffix(checkpoint: str, usual: "Suffix") -> "Suffix":
    """What a checkpoint knows behind its questions.

    Args:
        checkpoint: As ``--checkpoint`` names it.
        usual: What LLaVA-1.5 has on the benchmark.

    Raises:
        InputError: The checkpoint's config is missing or broken.
    """
    from vlm_jax.checkpoints.opening import checkpoint_folder, config_of, preset_of

    return "none" if preset_of(config_of(checkpoint_folder(checkpoint))) in _WITHOUT_SUFFIX else usual


def answer(options: Answering, target: Path, to_ask: Sequence["ImageQuestion"]) -> None:
    """Let the checkpoint answer, or go on where it was stopped, or find that it has answered these very questions.

    Raises:
        InputError: Something else was answered into ``target``, another process is at it, or an image is missing.
    """
    from vlm_jax.runs.row_files import make_once

    # A draw depends on its batch; what is most likely does not.
    free = ("batch_size",) if options.temperature == 0 else ()
    make_once(
        target,
        options,
        options.checkpoint,
        lambda: _answer_file(options, target, to_ask),
        without_effect=free,
        questions=lambda: questions_sha256(to_ask),
        images=lambda: images_sha256(to_ask),
    )


def _check_pictures(to_ask: Sequence["ImageQuestion"]) -> None:
    """Before the first answer: answers belong to their images, so that mending one later would strand them all.

    Raises:
        InputError: One cannot be decoded.
    """
    from vlm_jax.data.checks import check_images
    from vlm_jax.data.sources import Prompt
    from vlm_jax.runs.progress import Meter

    records = [Prompt(id=ask.id, image=ask.image, turns=()) for ask in to_ask]
    with Meter("pictures", len({ask.image for ask in to_ask} - {None})) as meter:
        check_images(records, meter.update)


def _answer_file(options: Answering, target: Path, to_ask: Sequence["ImageQuestion"]) -> None:
    from vlm_jax.checkpoints.opening import asked_as, open_model, open_policy
    from vlm_jax.evals.answering.runner import answer_file
    from vlm_jax.generate.sampling import Sampling

    _check_pictures(to_ask)
    how = {"adapter": options.adapter, "dtype": options.dtype, "attention": options.attention, "like": options.like}
    model = open_model(options.checkpoint, options.mesh, **how)
    model = asked_as(model, options.template, options.aspect)
    lora = open_policy(model, options.adapter)
    sampling = Sampling(max_new_tokens=options.max_new_tokens, temperature=options.temperature)
    answer_file(
        target,
        model,
        lora,
        to_ask,
        sampling,
        batch_size=options.batch_size,
        suffix=options.suffix,
        seed=options.seed,
        model_id=str(options.adapter or options.checkpoint),
    )


def questions_sha256(to_ask: Sequence["ImageQuestion"]) -> str:
    """One hash over ids, texts and names of images."""
    import hashlib
    import json

    rows = [[ask.id, ask.text, ask.image and ask.image.name] for ask in to_ask]
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def images_sha256(to_ask: Sequence["ImageQuestion"]) -> str:
    """One hash over the contents of all images, in the order in which they are first asked about.

    Raises:
        InputError: One is missing.
    """
    import hashlib

    from vlm_jax.files import file_sha256

    found = hashlib.sha256()
    for image in dict.fromkeys(ask.image for ask in to_ask if ask.image is not None):
        found.update(file_sha256(image))
    return found.hexdigest()
