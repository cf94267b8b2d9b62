"""From any checkpoint to our own layout, tensor by tensor, to be gone on with after a kill."""

import contextlib
import dataclasses
import functools
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vlm_jax import provenance
from vlm_jax.checkpoints.finite import not_finite
from vlm_jax.checkpoints.native import (
    REPORT_FILE,
    WEIGHTS_FILE,
    NativeInfo,
    NativeWriter,
    base_shapes,
    leaves_of,
    write_info,
)
from vlm_jax.checkpoints.sources import Source
from vlm_jax.checkpoints.tokenizer_files import copy_processor, tokenizer_files
from vlm_jax.errors import InputError
from vlm_jax.files import files_sha256, locked, read_json_lines, refuse_existing, write_json, write_json_lines
from vlm_jax.models.quantize import Scheme, dense, quantize

# A conversion that goes on: .TARGET.converting/ holds these beside the folder that becomes TARGET.
_LOCK, _CLAIM, _DONE, _RESULT = "lock", "run.json", "done.jsonl", "checkpoint"


def convert(
    source: Source,
    target: Path,
    tokenizer: Path | None,
    dtype: str | None = None,
    scheme: Scheme | None = None,
    step: Callable[[int], Any] = lambda size: None,
) -> list[dict]:
    """Write ``target`` in our layout (``checkpoints/native.py``); complete or not at all.

    What is there already of a conversion that was killed is kept beside the target and gone on with.

    Args:
        source: What to read.
        target: A new folder.
        tokenizer: Folder whose tokenizer files are copied, or None.
        dtype: Type of the weights that are not quantised; None for each one's own.
        scheme: How to quantise the blocks' projections.
        step: Called with the bytes of every tensor that is done.

    Returns:
        A row for every tensor of the source: ``tensor`` and, where it was quantised, its error's ``relative_rms`` and
        ``largest``.

    Raises:
        InputError: ``target`` exists, a conversion of something else lies half done or is under way in another process,
            what lies there is damaged, or the source is broken: a value is no finite number, say, or none any more in
            ``dtype``.
    """
    refuse_existing(target)
    sha256 = files_sha256(source.files)
    settings = {
        "layout": source.layout,
        "dtype": dtype,
        "scheme": scheme,
        "sha256": sha256,
        "tokenizer": tokenizer and files_sha256(tokenizer_files(tokenizer)),
    }
    partial = target.with_name(f".{target.name}.converting")
    partial.mkdir(parents=True, exist_ok=True)
    with _saying_what_is_left(partial), locked(partial / _LOCK):
        # Whoever held it may just have ended.
        refuse_existing(target)
        folder, fresh = partial / _RESULT, not (partial / _CLAIM).exists()
        if fresh:
            # Nothing says what else may lie there.
            shutil.rmtree(folder, ignore_errors=True)
        provenance.claim(partial / _CLAIM, {"settings": settings, "config": dataclasses.asdict(source.config)})
        try:
            folder.mkdir(exist_ok=True)
            copy_processor(tokenizer, source.folder, folder)
            rows = _write_weights(source, folder, partial / _DONE, dtype, scheme, step)
        except InputError:
            # What an earlier call has done is not this one's to remove.
            if fresh:
                shutil.rmtree(partial)
            raise
        origin = {"path": str(source.folder), "layout": source.layout, "sha256": sha256}
        write_info(folder, NativeInfo(source.config, dtype, scheme, origin))
        if scheme is not None:
            write_json(folder / REPORT_FILE, {"tensors": [row for row in rows if "relative_rms" in row]})
        folder.rename(target)
        shutil.rmtree(partial)
    return rows


@contextlib.contextmanager
def _saying_what_is_left(partial: Path) -> Iterator[None]:
    """Adds to an error of the system, a full disk say, that there is a hidden folder."""
    try:
        yield
    except OSError as error:
        error.add_note(f"what is done lies in {partial}: the same command goes on, or delete it")
        raise


def _write_weights(
    source: Source, folder: Path, done: Path, dtype: str | None, scheme: Scheme | None, step: Callable
) -> list[dict]:
    dtypes = source.leaf_dtypes()
    if dtype is not None:
        dtypes = dict.fromkeys(dtypes, np.dtype(dtype))
    shapes = base_shapes(source.config, dtypes, scheme)
    names = leaves_of(shapes).keys()
    # Rows speak of bytes: without those they are of a conversion that ended and was taken away.
    rows = _rows(done, source) if done.exists() and (folder / WEIGHTS_FILE).exists() else {}
    write_json_lines(done, rows.values())
    with NativeWriter(folder / WEIGHTS_FILE, shapes) as writer, done.open("a", encoding="utf-8") as log:
        for name, slot, tensor in source.parts(skipped=rows):
            if slot.path in names:
                with np.errstate(over="ignore"):
                    stored = np.ascontiguousarray(tensor, dtypes[slot.path])
                if stored.dtype != tensor.dtype and not_finite(stored):
                    raise InputError(f"values of {name} beyond {stored.dtype}", "bfloat16 or float32")
                writer.write(slot.path, slot.layer, stored)
                row = {"tensor": name}
            else:
                kernel, error = _quantized(jnp.asarray(tensor), scheme)
                for part, value in leaves_of({slot.path: kernel}).items():
                    writer.write(part, slot.layer, np.asarray(value))
                row = {"tensor": name} | {key: float(value) for key, value in error.items()}
            # Only after its bytes: a row says that they are there.
            log.write(json.dumps(row) + "\n")
            log.flush()
            rows[name] = row
            step(tensor.nbytes)
    return list(rows.values())


def _rows(done: Path, source: Source) -> dict[str, dict]:
    """What :func:`_write_weights` has logged, by tensor."""
    try:
        rows = {row["tensor"]: row for row in read_json_lines(done)}
        whole = rows.keys() <= source.slots.keys()
    except (InputError, TypeError, KeyError):
        whole = False
    if not whole:
        wanted = f"what the conversion wrote; delete {done.parent} to begin anew"
        raise InputError("rows that no conversion writes", wanted, file=str(done))
    return rows


@functools.partial(jax.jit, static_argnums=1)
def _quantized(kernel: Float[Array, "i o"], scheme: Scheme) -> tuple[Any, dict[str, Array]]:
    """The quantised kernel, its error's root mean square over the kernel's own, and the largest error."""
    wide = kernel.astype(jnp.float32)
    small = quantize(wide, scheme)
    error = dense(small, jnp.dtype("float32")) - wide
    power = jnp.square(wide).mean()
    relative = jnp.sqrt(jnp.square(error).mean() / jnp.where(power > 0, power, 1.0))
    return small, {"relative_rms": relative, "largest": jnp.abs(error).max()}
