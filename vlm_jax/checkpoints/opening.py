"""What several verbs begin with: a checkpoint with its tokenizer on a mesh, an adapter, a mesh from options."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from vlm_jax.arrays import Params
    from vlm_jax.checkpoints.hashes import BaseSource
    from vlm_jax.config import LlavaConfig
    from vlm_jax.data.conversation import Template, Tokenizer

# The model that ships with the package.
TINY = Path(__file__).parent.parent / "scenes" / "base"


@dataclasses.dataclass(frozen=True)
class MeshOptions:
    """How devices are laid out; their product is the number of devices used.

    Attributes:
        data: Copies of the weights, each with its share of the batch.
        fsdp: Parts that weights and batch are split into.
        tensor: Parts that heads, hidden units and vocabulary are split into.
    """

    data: int = 1
    fsdp: int = 1
    tensor: int = 1


@dataclasses.dataclass(frozen=True)
class Model:
    """A checkpoint, ready to compute with: ``base`` lies on the mesh."""

    config: "LlavaConfig"
    base: "Params"
    tokenizer: "Tokenizer"
    template: "Template"
    mesh: "Mesh"


def checkpoint_folder(checkpoint: str) -> Path:
    """The folder that a ``--checkpoint`` option names."""
    return TINY if checkpoint == "tiny" else Path(checkpoint)


def source_of(checkpoint: str) -> "BaseSource":
    """Where the frozen weights that a ``--checkpoint`` option names come from, and their hash."""
    from vlm_jax.checkpoints.hashes import BaseSource, weights_sha256

    return BaseSource(str(checkpoint), weights_sha256(checkpoint_folder(checkpoint)))


def open_model(
    checkpoint: str,
    mesh_options: MeshOptions = MeshOptions(),
    preset: str | None = None,
    adapter: Path | None = None,
) -> Model:
    """Load a folder in our own layout or in transformers' (or ``tiny``) and put it on the mesh.

    Args:
        checkpoint: Folder, or ``tiny``.
        mesh_options: Layout of the devices.
        preset: A name of ``config.PRESETS`` that the checkpoint must agree with.
        adapter: Folder of an adapter whose rank and alpha all adapters over this model will have.

    Raises:
        InputError: A file is missing or broken, the preset is another model, or there are too few devices.
    """
    from vlm_jax.checkpoints.adapters import lora_config
    from vlm_jax.checkpoints.hf_llava import check_preset
    from vlm_jax.checkpoints.stored import place_stored
    from vlm_jax.config import PRESETS
    from vlm_jax.data.conversation import TEMPLATES
    from vlm_jax.data.tokenizers import load_tokenizer
    from vlm_jax.errors import InputError
    from vlm_jax.parallel.mesh import make_mesh

    folder = checkpoint_folder(checkpoint)
    if preset is not None and preset not in PRESETS:
        raise InputError(f"preset {preset!r}", f"one of {', '.join(PRESETS)}")
    try:
        mesh = make_mesh(**dataclasses.asdict(mesh_options))
    except ValueError as error:
        raise InputError(str(error), "fewer parts in --mesh.*") from None
    config, stored = map_base(folder)
    if preset is not None:
        check_preset(config, preset, folder)
    if adapter is not None:
        config = dataclasses.replace(config, lora=lora_config(adapter))
    return Model(
        config=config,
        base=place_stored(mesh, stored),
        tokenizer=load_tokenizer(folder),
        template=TEMPLATES[config.template],
        mesh=mesh,
    )


def map_base(folder: Path) -> tuple["LlavaConfig", "Params"]:
    """A base as :class:`~vlm_jax.checkpoints.stored.StoredArray`, which stay in their files until they are looked at.

    Raises:
        InputError: The checkpoint is broken, or of a layout that has to be converted first.
    """
    from vlm_jax.checkpoints.native import CONFIG_FILE, map_native
    from vlm_jax.checkpoints.sources import open_hf
    from vlm_jax.errors import InputError
    from vlm_jax.files import read_json

    if (folder / CONFIG_FILE).exists():
        info, base = map_native(folder)
        return info.config, base
    if "text_config" not in read_json(folder / "config.json"):
        wanted = "transformers' layout, or our own: vlm-jax convert makes it from every other"
        raise InputError("a checkpoint of another layout", wanted, file=str(folder / "config.json"))
    source = open_hf(folder)
    return source.config, source.stored()


def preset_of(config: "LlavaConfig") -> str | None:
    """The name of the preset that a checkpoint is of, if it is of one."""
    from vlm_jax.checkpoints.hf_config import preset_differences
    from vlm_jax.config import PRESETS

    return next((name for name, preset in PRESETS.items() if not preset_differences(config, preset)), None)


def open_policy(model: Model, adapter: Path | None) -> "Params":
    """The adapter of a model that answers; without a folder one that changes nothing.

    Raises:
        InputError: The adapter is broken, changes nothing, or has a head: it scores, and would not change a word.
    """
    from vlm_jax.errors import InputError
    from vlm_jax.models.adapters import changes_nothing

    role = open_role(model, adapter)
    if "head" in role:
        raise InputError("a reward model, or a value model (it has a head)", "a policy's adapter", file=str(adapter))
    if adapter is not None and changes_nothing(role["lora"]):
        found = "an adapter that changes nothing: A or B of every projection is zero"
        raise InputError(found, "one that was trained", file=str(adapter))
    return role["lora"]


def open_role(model: Model, adapter: Path | None) -> "Params":
    """An adapter folder's role on the mesh; without a folder an adapter that changes nothing.

    One shape for both means one compiled function for the bare base and for every adapter over it.
    """
    import jax

    from vlm_jax.checkpoints.adapters import load_adapter
    from vlm_jax.models.adapters import init_lora
    from vlm_jax.parallel.compile import place

    role = {"lora": init_lora(model.config, jax.random.key(0))} if adapter is None else None
    return place(model.mesh, role or load_adapter(adapter, model.config))
