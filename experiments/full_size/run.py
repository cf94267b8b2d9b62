"""Full-size checkpoints on a small machine: how fast they convert, in how much memory, and whether they answer.

    python -m experiments.full_size.run --folder /somewhere/with/60/GB

Makes a LLaVA-1.5 of random float16 weights in transformers' layout, shard by shard; converts it; answers one prompt
about one image with the result, on the CPU. Every measurement is a process of its own. Everything lies in
FOLDER/vlm_jax_full_size, which the script makes, marks and removes; nothing else in FOLDER is looked at. Finished parts
are kept there, so the same command goes on where a stopped one left off.
"""

import dataclasses
import os
import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tyro
from PIL import Image

from experiments.claims import record
from experiments.generated import replace_between
from experiments.measured import measured
from vlm_jax.checkpoints.hf_config import config_json, processor_files
from vlm_jax.checkpoints.layouts import HF_LLAVA, slots, with_vocabulary
from vlm_jax.checkpoints.opening import TINY
from vlm_jax.checkpoints.sources import stored_shapes
from vlm_jax.checkpoints.tensor_files import write_tensors
from vlm_jax.checkpoints.tokenizer_files import copy_tokenizer
from vlm_jax.checkpoints.vocabulary import padded_rows, text_rows
from vlm_jax.config import PRESETS, LlavaConfig
from vlm_jax.errors import InputError
from vlm_jax.files import new_folder, read_json, write_json
from vlm_jax.versions import versions

_HERE = Path(__file__).parent
_NAME, _MARK = "vlm_jax_full_size", "made_by_this_experiment"
_STD = 0.02  # Of LLaMA's own start.
_POOL = 2**24
_TOKENS = 4
_GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command takes.

    Attributes:
        folder: For a folder of the script's own, which holds the weights.
        sizes: Presets to run.
        schemes: Quantisations of the first; further ones get the last of these.
        keep: Leave the weights there.
        again: Measure also what has a results file, and replace that.
    """

    folder: Path
    sizes: tuple[str, ...] = ("llava-1.5-7b", "llava-1.5-13b")
    schemes: tuple[str, ...] = ("int8", "nf4")
    keep: bool = False
    again: bool = False


def own_folder(parent: Path) -> Path:
    """A marked folder: only what this script made is ever taken for its weights, or removed.

    Raises:
        InputError: Somebody else's folder has its name.
    """
    folder = parent / _NAME
    if folder.exists() and not (folder / _MARK).is_file():
        raise InputError(f"a folder without {_MARK} in it", "the one that this script makes", file=str(folder))
    if not folder.exists():
        with new_folder(folder) as partial:
            (partial / _MARK).touch()
    return folder


def random_tensors(config: LlavaConfig) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor of transformers' layout, float16; values are slices of one pool of normal draws."""
    rng = np.random.default_rng(0)
    pool = (_STD * rng.standard_normal(_POOL)).astype(np.float16)
    layout = with_vocabulary(HF_LLAVA, config.language.vocab_size, padded_rows(config))
    for name, slot in slots(layout, stored_shapes("hf", config)).items():
        if slot.path.endswith("scale"):
            yield name, np.ones(slot.shape, np.float16)
            continue
        size = int(np.prod(slot.shape))
        start = int(rng.integers(_POOL))
        yield name, np.resize(np.roll(pool, -start) if size >= _POOL else pool[start % (_POOL - size) :], slot.shape)


def make_checkpoint(config: LlavaConfig, folder: Path) -> None:
    with new_folder(folder) as partial:
        write_json(partial / "config.json", config_json(config, padded_rows(config), "float16"))
        for name, contents in processor_files(config).items():
            write_json(partial / name, contents)
        copy_tokenizer(TINY, partial)
        name_every_id(partial / "tokenizer.json", text_rows(config))
        write_tensors(partial, random_tensors(config))


def name_every_id(tokenizer: Path, rows: int) -> None:
    """Words for the ids that the small tokenizer lacks, so that whatever is answered can be read."""
    contents = read_json(tokenizer)
    words = contents["model"]["vocab"]
    words |= {f"▁id{i}": i for i in range(len(words), rows)}
    write_json(tokenizer, contents)


def size_of(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def run_one(folder: Path, size: str, scheme: str, target: Path) -> None:
    """Convert and answer in our own folder; the figures go into a file."""
    source, ours = folder / size, folder / f"{size}-{scheme}"
    if not source.exists():
        print(f"{size}: making random weights")
        make_checkpoint(PRESETS[size], source)
    shutil.rmtree(ours, ignore_errors=True)
    print(f"{size} to {scheme}")
    converted = measured("convert", source, ours, "--quantize", scheme)
    image = folder / "gradient.png"
    Image.linear_gradient("L").convert("RGB").save(image)
    prompt = ["--image", image, "--prompt", "What is in the picture?", "--max-new-tokens", str(_TOKENS)]
    answered = measured("generate", "--checkpoint", ours, *prompt)
    write_json(
        target,
        {
            "size": size,
            "scheme": scheme,
            "source_bytes": size_of(source),
            "largest_shard_bytes": max(path.stat().st_size for path in source.glob("*.safetensors")),
            "result_bytes": size_of(ours),
            # Its output names folders of this machine.
            "convert": {key: value for key, value in converted.items() if key != "output"},
            "generate": answered | {"new_tokens": _TOKENS},
            "errors": quantisation_errors(ours),
            "machine": {"cores": len(os.sched_getaffinity(0)), "processor": platform.machine()},
            "versions": versions(),
        },
    )


def quantisation_errors(folder: Path) -> dict[str, float]:
    rows = read_json(folder / "quantization.json")["tensors"]
    relative = [row["relative_rms"] for row in rows]
    return {"tensors": len(rows), "mean_relative_rms": float(np.mean(relative)), "largest_relative_rms": max(relative)}


def load(folder: Path) -> list[dict]:
    """The results files, called SIZE_SCHEME.json."""
    return [read_json(path) for path in sorted((folder / "results").glob("*_*.json"))]


def bound_gib(one: dict) -> float:
    """In how much memory a conversion has to do: what it writes, one shard that it reads, and 1 GiB."""
    return (one["result_bytes"] + one["largest_shard_bytes"]) / _GIB + 1


def table() -> str:
    """One line for every results file."""
    lines = [
        "| model | quantised to | source GiB | result GiB | convert s | MB/s | peak GiB | result + shard + 1 GiB |"
        " answer s | answer peak GiB | error, % of RMS |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for one in load(_HERE):
        convert, generate = one["convert"], one["generate"]
        cells = [
            f"{one['source_bytes'] / _GIB:.2f}",
            f"{one['result_bytes'] / _GIB:.2f}",
            f"{convert['seconds']:.0f}",
            f"{one['source_bytes'] / 1e6 / convert['seconds']:.0f}",
            f"{convert['peak_gib']:.2f}",
            f"{bound_gib(one):.2f}",
            f"{generate['seconds']:.0f}",
            f"{generate['peak_gib']:.2f}",
            f"{100 * one['errors']['mean_relative_rms']:.2f}",
        ]
        lines.append(f"| {one['size']} | {one['scheme']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def parts(options: Options) -> list[tuple[str, str]]:
    """(size, scheme) of what is asked for and has no results file yet, or has to be measured again."""
    first, *others = options.sizes
    asked = [(first, scheme) for scheme in options.schemes] + [(other, options.schemes[-1]) for other in others]
    if options.again:
        return asked
    for part in asked:
        if result(*part).exists():
            print(f"{result(*part)} is there; --again measures anew")
    return [part for part in asked if not result(*part).exists()]


def result(size: str, scheme: str) -> Path:
    return _HERE / "results" / f"{size}_{scheme}.json"


def main(options: Options) -> None:
    if wanted := parts(options):
        measure(options, wanted)
    replace_between(_HERE / "README.md", "table", table())
    record(_HERE)


def measure(options: Options, wanted: list[tuple[str, str]]) -> None:
    folder = own_folder(options.folder)
    # Results of a run that was stopped count as its own, those in the repository do not.
    done = {part: folder / result(*part).name for part in wanted}
    for number, (size, scheme) in enumerate(wanted, 1):
        if not done[size, scheme].exists():
            run_one(folder, size, scheme, done[size, scheme])
        if options.keep:
            continue
        shutil.rmtree(folder / f"{size}-{scheme}", ignore_errors=True)
        if size not in (other for other, _ in wanted[number:]):
            shutil.rmtree(folder / size, ignore_errors=True)
    for part, path in done.items():
        shutil.move(path, result(*part))
    if not options.keep:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main(tyro.cli(Options, description=__doc__))
