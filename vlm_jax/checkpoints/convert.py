"""From any checkpoint to our own layout, tensor by tensor, to be gone on with after a kill."""

import dataclasses
import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from vlm_jax.checkpoints.native import (
    REPORT_FILE,
    WEIGHTS_FILE,
    NativeInfo,
    NativeWriter,
    base_shapes,
    leaves_of,
    write_info,
)
from vlm_jax.checkpoints.provenance import claim, files_sha256
from vlm_jax.checkpoints.sources import Source
from vlm_jax.checkpoints.tensor_files import not_finite
from vlm_jax.checkpoints.tokenizer_files import copy_tokenizer
from vlm_jax.errors import InputError
from vlm_jax.files import read_json_lines, refuse_existing, write_json, write_json_lines
from vlm_jax.models.quantize import Scheme, dense, quantize

_DONE = "done.jsonl"
_CLAIM = "run.json"


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
        A row for every tensor of the source: ``tensor``, ``not_finite`` (NaN and infinities as stored) and, where it
        was quantised, ``relative_rms`` and ``largest`` of the error, None where it is not finite.

    Raises:
        InputError: ``target`` exists, a conversion of something else lies half done, or the source is broken.
    """
    refuse_existing(target)
    partial = target.with_name(f".{target.name}.converting")
    sha256 = files_sha256(source.files)
    partial.mkdir(parents=True, exist_ok=True)
    claim(
        partial / _CLAIM,
        {
            "settings": {"layout": source.layout, "dtype": dtype, "scheme": scheme, "sha256": sha256},
            "config": dataclasses.asdict(source.config),
        },
    )
    try:
        if tokenizer is not None:
            copy_tokenizer(tokenizer, partial)
        rows = _write_weights(source, partial, dtype, scheme, step)
        origin = {"path": str(source.folder), "layout": source.layout, "sha256": sha256}
        write_info(partial, NativeInfo(source.config, dtype, scheme, origin))
        if scheme is not None:
            write_json(partial / REPORT_FILE, {"tensors": [row for row in rows if "relative_rms" in row]})
    except InputError:
        shutil.rmtree(partial)
        raise
    (partial / _DONE).unlink()
    (partial / _CLAIM).unlink()
    partial.rename(target)
    return rows


def _write_weights(
    source: Source, folder: Path, dtype: str | None, scheme: Scheme | None, step: Callable
) -> list[dict]:
    dtypes = source.leaf_dtypes()
    if dtype is not None:
        dtypes = dict.fromkeys(dtypes, np.dtype(dtype))
    shapes = base_shapes(source.config, dtypes, scheme)
    names = leaves_of(shapes).keys()
    done = folder / _DONE
    rows = {row["tensor"]: row for row in read_json_lines(done)} if done.exists() else {}
    write_json_lines(done, rows.values())
    with NativeWriter(folder / WEIGHTS_FILE, shapes) as writer, done.open("a", encoding="utf-8") as log:
        for name, slot, tensor in source.parts(skipped=rows):
            if slot.path in names:
                # Counted as it is written: a type may be too small for a value.
                with np.errstate(over="ignore"):
                    stored = np.ascontiguousarray(tensor, dtypes[slot.path])
                row = {"tensor": name, "not_finite": not_finite(stored)}
                writer.write(slot.path, slot.layer, stored)
            else:
                kernel, error = _quantized(jnp.asarray(tensor), scheme)
                for part, value in leaves_of({slot.path: kernel}).items():
                    writer.write(part, slot.layer, np.asarray(value))
                row = {"tensor": name, "not_finite": int(error.pop("not_finite"))}
                # A kernel that is not finite has no error that could be said.
                row |= {key: None if row["not_finite"] else float(value) for key, value in error.items()}
            # Only after its bytes: a row says that they are there.
            log.write(json.dumps(row) + "\n")
            log.flush()
            rows[name] = row
            step(tensor.nbytes)
    return list(rows.values())


@functools.partial(jax.jit, static_argnums=1)
def _quantized(kernel: Float[Array, "i o"], scheme: Scheme) -> tuple[Any, dict[str, Array]]:
    """The quantised kernel, its error's root mean square over the kernel's own, the largest error, and how many values
    are not finite afterwards (one NaN spreads over its column or block)."""
    wide = kernel.astype(jnp.float32)
    small = quantize(wide, scheme)
    error = dense(small, jnp.dtype("float32")) - wide
    power = jnp.square(wide).mean()
    relative = jnp.sqrt(jnp.square(error).mean() / jnp.where(power > 0, power, 1.0))
    broken = jnp.size(error) - jnp.isfinite(error).sum()
    return small, {"relative_rms": relative, "largest": jnp.abs(error).max(), "not_finite": broken}
