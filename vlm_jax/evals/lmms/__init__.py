"""Checkpoints as a model of lmms-eval, for the many benchmarks that it has beside ours.

    pip install "vlm-jax[lmms]"
    python -m lmms_eval --model vlm_jax --model_args checkpoint=DIR,adapter=DIR,batch_size=16 --tasks pope,seedbench_ppl

The model's arguments, with their defaults:

    checkpoint              Folder in transformers' LLaVA layout or of ``vlm-jax convert``, or ``tiny``.
    adapter                 Adapter folder, as ``vlm-jax sft`` and ``ppo`` write it; none.
    batch_size  1           Answers at a time; goes before lmms-eval's own --batch_size, which it hands over too.
    aspect  own             ``pad`` shows the whole image, ``square`` its middle; the checkpoint's without.
    template  own           System line: the checkpoint's, ``vicuna_v1``, or ``llava_v1`` (LLaVA-RLHF's evaluations).
    like                    ``transformers`` reads pictures and prompts as its processor makes them, ``llava`` as
                            LLaVA's training had them; as the adapter was trained, else as the checkpoint says.
    seed  0                 Of the draws, where a task samples.
    data, fsdp, tensor  1   Layout of the devices. One process uses them all: start it without ``accelerate launch``.

What a task asks stands in the user's turn of the checkpoint's own template, the image before it, as LLaVA's own model
class there has it. ``until``, ``max_new_tokens`` (1024), ``temperature``, ``top_p``, ``top_k`` and ``do_sample`` are
honoured. A task that names no ``until`` gets a blank line from lmms-eval, and its answers end there.

Refused: several images in a request, videos, sounds, several rounds, beam search, several processes. Tasks that compare
likelihoods (``multiple_choice``) run without --use_cache: the cache of lmms-eval 0.7.3 cannot hold a number.

``manifest`` is what the entry point of the group ``lmms_eval.models`` names. Everything heavy waits for the model.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lmms_eval.models.registry_v2 import ModelManifest


def manifest() -> "ModelManifest":
    """The name under which lmms-eval finds the class."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(model_id="vlm_jax", simple_class_path="vlm_jax.evals.lmms.model.VlmJax")
