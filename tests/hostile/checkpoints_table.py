"""Checkpoints that are not what their files say."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from broken_files import BROKEN
from good_commands import Ground
from hostile_case import Case, Ended, Gives, instead, refused
from safetensors.numpy import load_file, save_file

from vlm_jax.checkpoints.opening import TINY

WEIGHTS, CONFIG = "model.safetensors", "config.json"
Change = Callable[[Path], None]


def copied(change: Change) -> Callable[[Ground], Path]:
    """The tiny model in a folder of its own, changed."""

    def make(ground: Ground) -> Path:
        folder = Path(shutil.copytree(TINY, ground.folder / "model"))
        change(folder)
        return folder

    return make


def tensors(change: Callable[[dict[str, np.ndarray]], None]) -> Change:
    def make(folder: Path) -> None:
        found = dict(load_file(folder / WEIGHTS))
        change(found)
        save_file(found, folder / WEIGHTS)

    return make


def config(path: str, value: Any) -> Change:
    """One entry of config.json, by keys joined with dots; a value of None takes it out."""

    def make(folder: Path) -> None:
        raw = json.loads((folder / CONFIG).read_text())
        *above, last = path.split(".")
        section = raw
        for name in above:
            section = section[name]
        section[last] = value
        if value is None:
            del section[last]
        (folder / CONFIG).write_text(json.dumps(raw))

    return make


def header(change: Callable[[dict[str, Any], int], None], **how: Any) -> Change:
    """The header of the weights, told beside it how long the data behind is."""

    def make(folder: Path) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        (length,) = struct.unpack("<Q", whole[:8])
        found = json.loads(whole[8 : 8 + length])
        change(found, len(whole) - 8 - length)
        said = json.dumps(found).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(said)) + said + whole[8 + length :])

    return make


def beginning(data: bytes) -> Change:
    """Other bytes in front of the weights."""

    def make(folder: Path) -> None:
        whole = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data + whole[len(data) :])

    return make


def replaced(name: str, kind: str) -> Change:
    def make(folder: Path) -> None:
        (folder / name).unlink()
        BROKEN[kind].make(folder / name)

    return make


def without(*names: str) -> Change:
    def make(folder: Path) -> None:
        for name in names:
            (folder / name).unlink()

    return make


def _first(found: dict[str, Any]) -> str:
    return next(name for name in sorted(found) if name != "__metadata__")


def _offsets(begin: int, end: int) -> Change:
    def change(found: dict[str, Any], size: int) -> None:
        found[_first(found)]["data_offsets"] = [begin, end]

    return header(change)


def _key(**changes: Any) -> Change:
    return header(lambda found, size: found[_first(found)].update(changes))


def _overlap(found: dict[str, Any], size: int) -> None:
    one, other, *_ = [name for name in sorted(found) if name != "__metadata__"]
    found[one]["data_offsets"] = found[other]["data_offsets"]


class _Code:
    """Writes a file where somebody lets it."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    with zipfile.ZipFile(folder / "pytorch_model.bin", "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": _Code(folder / "ran")}, protocol=2))
        archive.writestr("archive/version", "3\n")


def _old_pickle(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(_Code(folder / "ran")))


def _set(name_part: str, value: float) -> Change:
    def change(found: dict[str, np.ndarray]) -> None:
        name = next(name for name in sorted(found) if name_part in name)
        found[name] = found[name].copy()
        found[name].reshape(-1)[0] = value

    return tensors(change)


def _drop(name_part: str) -> Change:
    def change(found: dict[str, np.ndarray]) -> None:
        for name in [name for name in found if name_part in name]:
            del found[name]

    return tensors(change)


def _reshaped(found: dict[str, np.ndarray]) -> None:
    name = next(name for name in sorted(found) if "q_proj.weight" in name)
    found[name] = np.ascontiguousarray(found[name].reshape(-1, 2))


def _typed(kind: Any) -> Change:
    return tensors(lambda found: found.update({name: value.astype(kind) for name, value in found.items()}))


def _more(found: dict[str, np.ndarray]) -> None:
    found["model.extra.weight"] = np.zeros(3, np.float32)


def _index(content: Any) -> Change:
    """The weights under another name, behind an index."""

    def make(folder: Path) -> None:
        names = list(load_file(folder / WEIGHTS))
        (folder / WEIGHTS).rename(folder / "part.safetensors")
        said = content(names) if callable(content) else content
        (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(said))

    return make


def _tokenizer(change: Callable[[dict[str, Any]], None]) -> Change:
    def make(folder: Path) -> None:
        raw = json.loads((folder / "tokenizer.json").read_text())
        change(raw)
        (folder / "tokenizer.json").write_text(json.dumps(raw))

    return make


def _too_large(raw: dict[str, Any]) -> None:
    raw["model"]["vocab"] |= {f"word{number}": number for number in range(512, 700)}


BROKEN_MODELS: dict[str, tuple[Change, tuple[str, ...]]] = {
    # Weights.
    "weights-missing": (without(WEIGHTS), ("model",)),
    "weights-empty": (replaced(WEIGHTS, "empty"), (WEIGHTS,)),
    "weights-folder": (replaced(WEIGHTS, "folder"), (WEIGHTS,)),
    "weights-pipe": (replaced(WEIGHTS, "pipe"), (WEIGHTS,)),
    "weights-device": (replaced(WEIGHTS, "device"), (WEIGHTS,)),
    "weights-html": (replaced(WEIGHTS, "html"), (WEIGHTS,)),
    "weights-lfs-pointer": (replaced(WEIGHTS, "lfs-pointer"), (WEIGHTS, "Git LFS")),
    "weights-dangling-link": (replaced(WEIGHTS, "dangling-link"), ("model",)),
    "header-longer-than-file": (beginning(struct.pack("<Q", 1 << 40)), (WEIGHTS,)),
    "header-beyond-64-bits": (beginning(b"\xff" * 8), (WEIGHTS,)),
    "header-of-nothing": (beginning(struct.pack("<Q", 0)), (WEIGHTS,)),
    "header-no-json": (beginning(struct.pack("<Q", 64) + b"{" * 64), (WEIGHTS,)),
    "header-a-list": (beginning(struct.pack("<Q", 2) + b"[]"), (WEIGHTS,)),
    "offsets-beyond-the-file": (_offsets(0, 1 << 40), (WEIGHTS,)),
    "offsets-negative": (_offsets(-8, 8), (WEIGHTS,)),
    "offsets-backwards": (_offsets(64, 0), (WEIGHTS,)),
    "offsets-overlap": (header(_overlap), (WEIGHTS,)),
    "shape-negative": (_key(shape=[-1, 128]), (WEIGHTS,)),
    "shape-huge": (_key(shape=[1 << 62, 1 << 62]), (WEIGHTS,)),
    "type-unknown": (_key(dtype="F7"), (WEIGHTS,)),
    "tensor-missing": (_drop("norm.weight"), (WEIGHTS, "missing")),
    "tower-missing": (_drop("vision"), (WEIGHTS,)),
    "projector-missing": (_drop("projector"), (WEIGHTS,)),
    "tensor-too-many": (tensors(_more), (WEIGHTS, "model.extra.weight")),
    "tensor-of-another-shape": (tensors(_reshaped), (WEIGHTS, "q_proj")),
    "nan": (_set("q_proj", np.nan), (WEIGHTS, "q_proj")),
    "infinity": (_set("lm_head", np.inf), (WEIGHTS, "lm_head")),
    "integers": (_typed(np.int32), (WEIGHTS,)),
    "pickle-with-code": (_pickle, ("pytorch_model.bin",)),
    "old-pickle-with-code": (_old_pickle, ("pytorch_model.bin",)),
    # Indices.
    "index-of-nothing": (_index({"weight_map": {}}), ("index.json",)),
    "index-a-list": (_index([]), ("index.json",)),
    "index-of-numbers": (_index(lambda names: {"weight_map": dict.fromkeys(names, 3)}), ("index.json",)),
    "index-out-of-the-folder": (
        _index(lambda names: {"weight_map": dict.fromkeys(names, "../model/part.safetensors")}),
        ("index.json",),
    ),
    "index-to-nothing": (_index(lambda names: {"weight_map": dict.fromkeys(names, "gone.safetensors")}), ("gone",)),
    # Configs.
    "config-missing": (without(CONFIG), (CONFIG,)),
    "config-empty": (replaced(CONFIG, "empty"), (CONFIG,)),
    "config-a-list": (replaced(CONFIG, "list-of-numbers"), (CONFIG,)),
    "config-binary": (replaced(CONFIG, "binary"), (CONFIG,)),
    "config-deep": (replaced(CONFIG, "deep-object"), (CONFIG,)),
    "config-a-pipe": (replaced(CONFIG, "pipe"), (CONFIG,)),
    "heads-0": (config("text_config.num_attention_heads", 0), (CONFIG,)),
    "layers-negative": (config("text_config.num_hidden_layers", -1), (CONFIG,)),
    "layers-huge": (config("text_config.num_hidden_layers", 10**12), (CONFIG,)),
    "layers-more": (config("text_config.num_hidden_layers", 5), ("model",)),
    "layers-fewer": (config("text_config.num_hidden_layers", 3), ("model",)),
    "layers-of-text": (config("text_config.num_hidden_layers", "4"), (CONFIG,)),
    "layers-a-half": (config("text_config.num_hidden_layers", 4.5), (CONFIG,)),
    "width-huge": (config("text_config.hidden_size", 1 << 62), (CONFIG,)),
    "width-not-by-heads": (config("text_config.num_attention_heads", 3), (CONFIG,)),
    "kv-heads-not-by-heads": (config("text_config.num_key_value_heads", 3), (CONFIG,)),
    "rows-0": (config("text_config.vocab_size", 0), (CONFIG,)),
    "eps-nan-as-text": (config("text_config.rms_norm_eps", "nan"), (CONFIG,)),
    "eps-negative": (config("text_config.rms_norm_eps", -1e-5), (CONFIG,)),
    "theta-0": (config("text_config.rope_parameters.rope_theta", 0), (CONFIG,)),
    "activation-unknown": (config("text_config.hidden_act", "relu6"), (CONFIG,)),
    "text-a-list": (config("text_config", []), (CONFIG,)),
    "text-null": (config("text_config.model_type", "gpt2"), (CONFIG,)),
    "vision-missing": (config("vision_config", None), (CONFIG,)),
    "patch-0": (config("vision_config.patch_size", 0), (CONFIG,)),
    "patch-larger-than-picture": (config("vision_config.patch_size", 64), (CONFIG,)),
    "picture-negative": (config("vision_config.image_size", -48), (CONFIG,)),
    "feature-layer-beyond": (config("vision_feature_layer", 77), (CONFIG,)),
    "image-token-of-text": (config("image_token_index", "<image>"), (CONFIG,)),
    "image-token-negative": (config("image_token_index", -5), (CONFIG,)),
    # Tokenizers.
    "tokenizer-missing": (without("tokenizer.json", "tokenizer_config.json"), ("model",)),
    "tokenizer-empty": (replaced("tokenizer.json", "empty"), ("model",)),
    "tokenizer-binary": (replaced("tokenizer.json", "binary"), ("model",)),
    "tokenizer-a-list": (replaced("tokenizer.json", "list-of-numbers"), ("model",)),
    "tokenizer-a-folder": (replaced("tokenizer.json", "folder"), ("model",)),
    "tokenizer-a-pipe": (replaced("tokenizer.json", "pipe"), ("model",)),
    "tokenizer-without-model": (_tokenizer(lambda raw: raw.pop("model")), ("model",)),
    "tokenizer-too-large": (_tokenizer(_too_large), ("model",)),
    "tokenizer-config-binary": (replaced("tokenizer_config.json", "binary"), ("model",)),
}


def _cases() -> Iterator[Case]:
    for number, (name, (change, words)) in enumerate(BROKEN_MODELS.items()):
        yield Case("convert", f"source-{name}", instead("convert", 0, copied(change)), refused(*words), number % 4 != 0)
        yield Case(
            "generate", f"checkpoint-{name}", instead("generate", checkpoint=copied(change)), refused(*words), True
        )
        if number % 3 == 0:
            yield Case("export", f"source-{name}", instead("export", 0, copied(change)), refused(*words), True)


def _halves(ended: Ended) -> None:
    """The projector is the tiny model's, in 16 bits."""
    here, there = load_file(ended.ground.out / "weights.safetensors"), load_file(TINY / WEIGHTS)
    found = here["projector/linear1/kernel"]
    assert found.dtype == np.float16
    expected = next(value for name, value in there.items() if "projector" in name and "linear_1.weight" in name)
    assert np.array_equal(found, expected.T.astype(np.float16))


CASES = [
    *_cases(),
    Case("checkpoint", "folder-empty", instead("checkpoint", 1, lambda ground: ground.folder), refused("weights")),
    Case("checkpoint", "folder-missing", instead("checkpoint", 1, "nowhere"), refused("nowhere")),
    Case("checkpoint", "folder-a-file", instead("checkpoint", 1, lambda ground: ground.write("x", "")), refused("x")),
    Case("checkpoint", "weights-html", instead("checkpoint", 1, copied(replaced(WEIGHTS, "html"))), refused(WEIGHTS)),
    Case(
        "checkpoint",
        "config-a-list",
        instead("checkpoint", 1, copied(replaced(CONFIG, "list-of-numbers"))),
        refused(CONFIG),
    ),
    Case("convert", "source-missing", instead("convert", 0, "nowhere"), refused("nowhere")),
    Case("convert", "source-a-file", instead("convert", 0, lambda ground: ground.write("x", "{}")), refused("x")),
    Case("convert", "vision-missing", instead("convert", vision="nowhere"), refused("--vision")),
    Case("convert", "base-of-no-delta", instead("convert", base=TINY), refused("--base")),
    Case("convert", "projector-of-another-kind", instead("convert", projector=TINY / CONFIG), refused("--projector")),
    Case("convert", "tokenizer-missing", instead("convert", tokenizer="nowhere"), refused("nowhere")),
    Case("convert", "half-precision", instead("convert", 0, copied(_typed(np.float16))), Gives(_halves), slow=True),
]
