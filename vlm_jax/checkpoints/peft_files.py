"""Adapters as peft writes them: their files, whichever class they were trained on, without knowing the model below.

peft names a tensor after the module that it adapts, so one adapter has three spellings: on the original LLaVA class,
on transformers' LLaVA since 4.52, and on the one before. Ours is the first.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from vlm_jax.checkpoints.finite import finite
from vlm_jax.checkpoints.layouts import DECODER_PROJECTIONS, PEFT_LORA_RENAMES, PEFT_PROJECTOR_RENAMES, normalised
from vlm_jax.checkpoints.peft_config import LowRank, low_rank, obstacles, selects
from vlm_jax.checkpoints.tensor_files import TensorFile, open_file
from vlm_jax.checkpoints.torch_files import TorchFile
from vlm_jax.errors import InputError
from vlm_jax.files import read_json

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
_WEIGHT_FILES = (WEIGHTS_FILE, "adapter_model.bin")
# Names under which LLaVA-RLHF, we and LLaMA-Factory (.bin) store scalar heads.
_HEAD_FILES = {
    "reward": ("reward_head.safetensors", "reward_head", "reward_head.pt"),
    "value": ("value_head.safetensors", "value_head.pt", "value_head", "value_head.bin"),
}
# Folders of peft whose head lies further up.
_HEAD_OWNERS = {"reward": ("lora_default", "lora_reward"), "value": ("lora_value",)}
_NAME = re.compile(r"^base_model\.model\.model\.layers\.(\d+)\.([\w.]+)\.lora_([AB])\.weight$")
PROJECTIONS = tuple(name for name, _ in DECODER_PROJECTIONS)
# Widths that a decoder's projections go from and to: one of each name throughout a model.
_WIDTHS = {
    "self_attn.q_proj": ("model", "queries"),
    "self_attn.k_proj": ("model", "keys"),
    "self_attn.v_proj": ("model", "keys"),
    "self_attn.o_proj": ("queries", "model"),
    "mlp.gate_proj": ("model", "mlp"),
    "mlp.up_proj": ("model", "mlp"),
    "mlp.down_proj": ("mlp", "model"),
}
_WANTED = "LoRA on projections of the decoder, and the projector beside it"
INNER = "base_model.model."  # What peft puts before the class' own names.


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds adapters, itself or below, and no model."""
    return (folder / CONFIG_FILE).exists() or (not (folder / "config.json").exists() and bool(_below(folder)))


def _below(folder: Path) -> list[Path]:
    """Adapters of other names than peft's default, and in LLaVA-RLHF's ``checkpoint-N/adapter_model/lora_*``."""
    found = [*folder.glob(f"*/{CONFIG_FILE}"), *folder.glob(f"adapter_model/*/{CONFIG_FILE}")]
    return sorted(path.parent for path in found)


def adapter_folder(folder: Path) -> Path:
    """The folder itself or the only one below it that holds an adapter.

    Raises:
        InputError: There is no adapter, or several.
    """
    if (folder / CONFIG_FILE).exists():
        return folder
    found = _below(folder)
    if len(found) != 1:
        paths = ", ".join(str(path.relative_to(folder)) for path in found)
        what = f"adapters {paths}" if found else f"no {CONFIG_FILE}"
        raise InputError(what, "one adapter, here or in a folder below", file=str(folder))
    return found[0]


def weights_path(folder: Path) -> Path:
    """Raises:
    InputError: The folder holds no weights of an adapter.
    """
    for name in _WEIGHT_FILES:
        if (folder / name).exists():
            return folder / name
    raise InputError("no adapter weights", " or ".join(_WEIGHT_FILES), file=str(folder))


def weights_file(folder: Path) -> TensorFile | TorchFile:
    """The adapter's tensors, in whichever format they are."""
    return open_file(weights_path(folder))


def head_files(folder: Path) -> dict[str, Path]:
    """Scalar heads that belong to an adapter: beside it, or where LLaVA-RLHF's training leaves them.

    That is ``checkpoint-N/reward_head`` for ``checkpoint-N/adapter_model/lora_default`` and
    ``checkpoint-N/value_head.pt`` for ``.../lora_value``; ``lora_policy`` beside it has none.
    """
    found = {}
    for kind, names in _HEAD_FILES.items():
        places = [folder]
        if folder.name in _HEAD_OWNERS[kind]:
            places += [folder.parent, *([folder.parent.parent] if folder.parent.name == "adapter_model" else [])]
        files = [place / name for place in places for name in names if (place / name).is_file()]
        if files:
            found[kind] = files[0]
    return found


class Adapter(NamedTuple):
    """An adapter whose files fit together; its values are not read yet.

    Attributes:
        folder: Where it lies.
        raw: Contents of its config.
        file: Its tensors.
        modules: Of every adapted projection, by layer and torch name: rank and scale.
        names: Our name of a tensor -> the file's, of A and B.
        projector: The original code's name of a tensor of the projector -> file and name there; empty without one.
    """

    folder: Path
    raw: dict[str, Any]
    file: TensorFile | TorchFile
    modules: dict[tuple[int, str], LowRank]
    names: dict[str, str]
    projector: dict[str, tuple[TensorFile | TorchFile, str]]

    def module_of(self, name: str) -> LowRank:
        """Rank and scale of what a tensor of :attr:`names` belongs to."""
        layer, projection, _ = _NAME.match(name).groups()
        return self.modules[int(layer), projection]

    def lacking(self, layers: int) -> list[str]:
        """Our names of what the config adapts in a decoder of so many layers, behind the last one that is there."""
        lost = _promised(self.raw, self.modules, self.names, layers) - self.modules.keys()
        return [_lora_name(layer, projection, half) for layer, projection in sorted(lost) for half in "AB"]

    def read(self, name: str) -> np.ndarray:
        """A or B, in torch's axes.

        Raises:
            InputError: A value is no finite number.
        """
        return finite(self.names[name], self.file.read(self.names[name]), self.file.path)

    def read_projector(self) -> dict[str, np.ndarray]:
        """The projector's tensors by the original code's names; errors as in :meth:`read`.

        transformers' class has a second matrix in any case: the identity behind a single one is left out.
        """
        found = {name: finite(here, file.read(here), file.path) for name, (file, here) in self.projector.items()}
        second, bias = (found.get(f"model.mm_projector.2.{part}") for part in ("weight", "bias"))
        if second is None or bias is None or bias.any() or not np.array_equal(second, np.eye(len(second))):
            return found
        return {f"model.mm_projector.{part}": found[f"model.mm_projector.0.{part}"] for part in ("weight", "bias")}


def open_adapter(folder: Path) -> Adapter:
    """The adapter in a folder, also in one below.

    Reads LoRA on any of the decoder's seven projections, in any of its layers, with ranks and scales that may differ,
    and a projector that was trained beside it: under ``modules_to_save``, or in LLaVA's ``non_lora_trainables.bin``.

    Raises:
        InputError: A file is missing or broken; the adapter is of another kind; rank or alpha is missing; tensors
            belong to other modules (CLIP's projections carry the same suffixes, so peft adapts them too where it can
            see them); one that the config promises is missing; shapes are not of the rank, or of no one decoder.
    """
    folder = adapter_folder(folder)
    path = folder / CONFIG_FILE
    raw = read_json(path)
    if odd := obstacles(raw):
        raise InputError("; ".join(odd), _WANTED, file=str(path))
    file = weights_file(folder)
    names = normalised(file.shapes(), PEFT_LORA_RENAMES)
    projector = {one: here for one, here in normalised(names.values(), PEFT_PROJECTOR_RENAMES).items() if _is_map(one)}
    matches = {name: _NAME.match(name) for name, here in names.items() if here not in projector.values()}
    odd = [names[name] for name, match in matches.items() if match is None or match[2] not in PROJECTIONS]
    if odd:
        raise InputError(f"{len(odd)} other tensors: {', '.join(odd[:6])}", _WANTED, file=str(file.path))
    lora = {name: names[name] for name in matches}
    modules = {
        (int(match[1]), match[2]): low_rank(raw, lora[name].removeprefix(INNER).rpartition(".lora_")[0], path)
        for name, match in matches.items()
    }
    _check_complete(raw, modules, lora, file.path)
    shapes, kinds = file.shapes(), file.dtypes()
    if odd := [f"{here} of {kinds[here]}" for here in lora.values() if kinds[here].kind in "biu"]:
        raise InputError(f"{len(odd)} tensors of integers: {', '.join(odd[:6])}", "weights", file=str(file.path))
    if odd := _odd_shapes({name: shapes[here] for name, here in lora.items()}, modules):
        found = f"{len(odd)} odd shapes: {', '.join(odd[:6])}"
        raise InputError(found, f"one decoder's, of the ranks in {CONFIG_FILE}", file=str(file.path))
    places = {name: (file, here) for name, here in projector.items()} | _beside(folder)
    return Adapter(folder, raw, file, modules, lora, places)


def _is_map(name: str) -> bool:
    return name.startswith("model.mm_projector.")


def projector_files(folder: Path) -> list[Path]:
    """The projector in LLaVA's own file beside an adapter (``train.py``, ``--lora_enable``); empty where there is none.

    Raises:
        InputError: There are several.
    """
    found = sorted(folder.glob("non_lora_trainables.*"))
    if len(found) > 1:
        raise InputError(" and ".join(path.name for path in found), "one of them", file=str(folder))
    return found


def _beside(folder: Path) -> dict[str, tuple[TensorFile | TorchFile, str]]:
    """What :func:`projector_files` hold."""
    for path in projector_files(folder):
        file = open_file(path)
        names = normalised(file.shapes(), PEFT_PROJECTOR_RENAMES)
        if odd := [here for name, here in names.items() if not _is_map(name)]:
            road = f"vlm-jax convert BASE ... --projector {path}"
            wanted = f"a projector's alone; with others it goes with the base ({road}), and the adapter without it"
            raise InputError(f"{len(odd)} other tensors: {', '.join(odd[:6])}", wanted, file=str(path))
        return {name: (file, here) for name, here in names.items()}
    return {}


def _promised(
    raw: Mapping[str, Any], modules: Collection[tuple[int, str]], names: Mapping[str, str], layers: int
) -> set[tuple[int, str]]:
    """Projections that the config adapts in a decoder of so many layers; where it names none, those that there are."""
    # The class' own spelling, for what the config says in its words.
    spelled = next(iter(names.values())).removeprefix(INNER).partition("layers.")[0]
    targets = {projection for _, projection in modules}

    def adapted(layer: int, projection: str) -> bool:
        if raw.get("target_modules"):
            return selects(raw, f"{spelled}layers.{layer}.{projection}")
        return projection in targets

    return {(layer, one) for layer in range(layers) for one in PROJECTIONS if adapted(layer, one)}


def _check_complete(
    raw: Mapping[str, Any], modules: Mapping[tuple[int, str], LowRank], names: Mapping[str, str], file: Path
) -> None:
    """A and B of every module, and every module that the config selects in the layers that there are."""
    if not modules:
        raise InputError("no tensors", "two for each adapted projection", file=str(file))
    wanted = _promised(raw, modules, names, 1 + max(layer for layer, _ in modules))
    if stray := sorted(modules.keys() - wanted):
        found = ", ".join(f"layers.{layer}.{projection}" for layer, projection in stray[:6])
        raise InputError(f"{len(stray)} modules that {CONFIG_FILE} does not adapt: {found}", "those", file=str(file))
    halves = [_lora_name(layer, name, half) for layer, name in sorted(wanted) for half in "AB"]
    if lost := [name for name in halves if name not in names]:
        found = f"{len(lost)} missing tensors: {', '.join(lost[:6])}"
        raise InputError(found, "two for each projection that the config adapts", file=str(file))


def _lora_name(layer: int, projection: str, half: str) -> str:
    return f"{INNER}model.layers.{layer}.{projection}.lora_{half}.weight"


def _odd_shapes(shapes: Mapping[str, tuple[int, ...]], modules: Mapping[tuple[int, str], LowRank]) -> list[str]:
    """Tensors that are not [rank, in] (A) or [out, rank] (B), or whose width is another than most have there."""
    found: dict[str, Counter] = defaultdict(Counter)
    places = {}
    for name, shape in shapes.items():
        layer, projection, half = _NAME.match(name).groups()
        axis, width = (1, _WIDTHS[projection][0]) if half == "A" else (0, _WIDTHS[projection][1])
        places[name] = axis, width, modules[int(layer), projection].rank
        found[width].update(shape[axis : axis + 1])
    odd = []
    for name, (axis, width, rank) in places.items():
        ((usual, _),) = found[width].most_common(1) or [(0, 0)]
        wanted = (rank, usual) if axis else (usual, rank)
        if shapes[name] != wanted:
            odd.append(f"{name} {list(shapes[name])} instead of {list(wanted)}")
    return odd


def open_head(path: Path) -> TensorFile | TorchFile:
    """A file of a scalar head.

    Raises:
        InputError: The head is TRL's: LLaMA-Factory's reward models have it, which read no evaluation turn, and its PPO
            leaves it beside a policy's adapter.
    """
    file = open_file(path)
    if any(name.startswith("v_head.") for name in file.shapes()):
        wanted = "a head of LLaVA-RLHF's kind; for the adapter alone as a policy, a folder without this file"
        raise InputError("TRL's value head (v_head.summary)", wanted, file=str(path))
    return file


def require_head(folder: Path) -> None:
    """See to it that an adapter has a head, before anybody asks what that reads.

    Raises:
        InputError: It has none, or another program's.
    """
    heads = head_files(adapter_folder(folder))
    if not heads:
        raise InputError("an adapter without a reward head", "what `vlm-jax reward` wrote", file=str(folder))
    for path in heads.values():
        open_head(path)


def read_head(path: Path) -> dict[str, np.ndarray]:
    """A scalar head as float32 ``{"weight": [1, d], "bias": [1]}``.

    Raises:
        InputError: The file holds something else.
    """
    file = open_head(path)
    shapes = file.shapes()
    weight, bias = shapes.get("weight", ()), shapes.get("bias")
    if shapes.keys() != {"weight", "bias"} or len(weight) != 2 or weight[0] != 1 or bias != (1,):
        raise InputError(f"{shapes}", "weight [1, d] and bias [1]", file=str(path))
    return {name: np.asarray(finite(name, file.read(name), path), np.float32) for name in shapes}
