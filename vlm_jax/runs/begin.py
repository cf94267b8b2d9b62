"""How every verb begins: what the result is to be made from, whether it is there, and whose place it is.

The same command goes on or finds its result, another one is refused. The record that lies beside a result
(``vlm_jax.provenance``) holds ``settings`` (what decides the result), ``inputs`` (digests of the files that it is made
from), ``base`` (the frozen weights) and ``options`` (all as asked for).
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vlm_jax import provenance
from vlm_jax.checkpoints.hashes import NO_BASE, BaseSource, digest, image_processor_sha256, tokenizer_sha256
from vlm_jax.checkpoints.opening import checkpoint_folder, source_of
from vlm_jax.files import plain

# Options that decide where and how a run goes on, not what comes out of it.
_WITHOUT_EFFECT = (
    *("checkpoint", "out", "output", "mesh", "preset", "recipe", "microbatches", "save_every", "attention", "unroll"),
    *("rollout_parts", "allow_outside", "allow_empty", "hosts"),
)

# Names of what :func:`begin` is given itself.
_CONTENTS_RECORDED = ("view.reward_prompt",)


@dataclasses.dataclass(frozen=True)
class Run:
    """One verb's work on its result.

    Attributes:
        result: File or folder that stands at the end.
        record: Where it is written what the result is made from.
        made: What it is made from.
    """

    result: Path
    record: Path
    made: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """Where the run keeps its states and its log."""
        return self.record.parent

    @property
    def started(self) -> bool:
        """Whether a step of it is saved."""
        return any((self.folder / "steps").glob("[0-9]*"))

    def finished(self) -> bool:
        """Whether this very result is there already; says so. See :func:`vlm_jax.provenance.finished`."""
        return provenance.finished(self.result, self.record, self.made)

    def claim(self) -> None:
        """Take the place, or go on in it. See :func:`vlm_jax.provenance.claim`."""
        provenance.claim(self.record, self.made)

    def claim_anew(self) -> None:
        """Take the place of a result that is made in one go: a record without a result is not in the way."""
        self.record.unlink(missing_ok=True)
        self.claim()


def begin(
    options: Any,
    result: Path,
    record: Path,
    checkpoint: str | None = None,
    *,
    without_effect: Sequence[str] = (),
    **inputs: Any,
) -> Run:
    """A run of these options.

    Args:
        options: A verb's options, a dataclass.
        result: File or folder that the run ends with.
        record: File that says what the result was made from.
        checkpoint: The frozen weights, as ``--checkpoint`` names them.
        without_effect: Options that change nothing in this result beside rounding: whoever goes on may change them.
        inputs: What the result depends on beside the options.

    Raises:
        InputError: The checkpoint holds no weights, or an input is broken.
    """
    base = NO_BASE if checkpoint is None else source_of(checkpoint)
    if checkpoint is not None:
        # It decides ids of special tokens, and the words around a conversation.
        inputs["tokenizer"] = tokenizer_sha256(checkpoint_folder(checkpoint))
        if getattr(options, "like", None) == "transformers":
            inputs["image_processor"] = image_processor_sha256(checkpoint_folder(checkpoint))
    return Run(result, record, {**identity(options, base, without_effect), **plain(inputs)})


def identity(options: Any, base: BaseSource = NO_BASE, without_effect: Sequence[str] = ()) -> dict[str, Any]:
    """A verb's options (a dataclass) as the record of a run: settings, digests of its inputs, and all as given.

    Files are hashed, so are folders of weights and drawn worlds; folders of images are too large and are not.
    """
    settings, inputs = {}, {}
    for name, value in provenance.fields(dataclasses.asdict(options)):
        if name.split(".")[0] in (*_WITHOUT_EFFECT, *without_effect) or name in _CONTENTS_RECORDED:
            continue
        if isinstance(value, Path):
            inputs[name] = digest(value)
        else:
            settings[name] = value
    made = {"settings": settings, "inputs": inputs, "options": dataclasses.asdict(options)}
    return plain({**made, "base": dataclasses.asdict(base)})
