"""What several verbs begin with: a checkpoint with its tokenizer on a mesh, an adapter, a mesh from options."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from vlm_jax.errors import note
from vlm_jax.ranges import Range

if TYPE_CHECKING:
    from jax.sharding import Mesh

    from vlm_jax.arrays import Params
    from vlm_jax.checkpoints.hashes import BaseSource
    from vlm_jax.checkpoints.reading import Like
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

    data: Annotated[int, Range(1, 65536)] = 1
    fsdp: Annotated[int, Range(1, 65536)] = 1
    tensor: Annotated[int, Range(1, 65536)] = 1


@dataclasses.dataclass(frozen=True)
class Model:
    """A checkpoint, ready to compute with: ``base`` lies on the mesh."""

    config: "LlavaConfig"
    base: "Params"
    tokenizer: "Tokenizer"
    template: "Template"
    mesh: "Mesh"
    # The adapter whose projector stands in ``base``, where one brought its own.
    projector_of: Path | None = None
    # The base's folder.
    folder: Path | None = None


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
    dtype: Literal["float32", "bfloat16"] | None = None,
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto",
    masters: bool = False,
    like: "Like | None" = None,
) -> Model:
    """Load a folder in our own layout or in transformers' (or ``tiny``) and put it on the mesh.

    Args:
        checkpoint: Folder, or ``tiny``.
        mesh_options: Layout of the devices.
        preset: A name of ``config.PRESETS`` that the checkpoint must agree with.
        adapter: Folder of an adapter that the model is opened for: its rank and scale are the config's, and a projector
            that was trained beside it takes the base's place.
        dtype: Arithmetic; the checkpoint's own without.
        attention: See :func:`vlm_jax.models.attend.implementation_for`.
        masters: Keep float32 weights under an arithmetic of fewer bits, as training them needs; they are then cast at
            every use, in answers at every token. Weights that stay as they are (under an adapter, say) are cast once.
        like: Whose pictures and prompts it reads, LLaVA's or those of transformers' processor; left out, as the adapter
            was trained, else as the checkpoint's config says, which is mostly LLaVA's.

    Raises:
        InputError: A file is missing or broken, the preset is another model, there are too few devices, attention
            cannot be computed as asked, or as in :func:`vlm_jax.checkpoints.reading.reading_of`.
    """
    from jax import set_mesh

    from vlm_jax.checkpoints.adapters import load_projector, lora_config
    from vlm_jax.checkpoints.hf_llava import check_preset
    from vlm_jax.checkpoints.reading import reading_of
    from vlm_jax.checkpoints.stored import place_stored
    from vlm_jax.config import PRESETS
    from vlm_jax.data.chat_template import as_transformers, ended_by, template_named
    from vlm_jax.data.tokenizers import load_tokenizer
    from vlm_jax.errors import InputError, did_you_mean
    from vlm_jax.models.llava import attention_of
    from vlm_jax.parallel.mesh import make_mesh

    folder = checkpoint_folder(checkpoint)
    if preset is not None and preset not in PRESETS:
        raise InputError(f"preset {preset!r}{did_you_mean(preset, PRESETS)}", f"one of {', '.join(PRESETS)}")
    try:
        mesh = make_mesh(**dataclasses.asdict(mesh_options))
    except ValueError as error:
        raise InputError(str(error), "fewer parts in --mesh.*") from None
    config, stored, tokenizer = _open_base(folder, load_tokenizer)
    if dtype is not None:
        config = dataclasses.replace(config, dtype=dtype)
    config = dataclasses.replace(config, attention=attention)
    with set_mesh(mesh):  # Its platform is asked for.
        attention_of(config, config.language.head_width)
    if preset is not None:
        check_preset(config, preset, folder)
    reading = reading_of(config, folder, adapter, like)
    config = dataclasses.replace(config, as_transformers=reading.steps)
    if reading.steps is not None and not (folder / "tokenizer.json").exists():
        found, wanted = "no tokenizer.json", "one: of tokenizer.model alone each transformers makes something else"
        raise InputError(found, f"{wanted}; or no --like transformers", file=str(folder))
    named = template_named if reading.steps is None else as_transformers
    template = named(config.template, tokenizer)
    if reading.trained:
        config = ended_by(config, template)
    projector = None
    if adapter is not None:
        config = dataclasses.replace(config, lora=lora_config(adapter))
        projector = load_projector(adapter, config)
    if projector is not None:
        stored = {**stored, "projector": projector}
    return Model(
        config=config,
        base=place_stored(mesh, stored, config.dtype, masters),
        tokenizer=tokenizer,
        template=template,
        mesh=mesh,
        projector_of=None if projector is None else adapter,
        folder=folder,
    )


def asked_as(model: Model, template: str = "own", aspect: str = "own") -> Model:
    """The model with another template than its own, or with images made square in another way.

    Raises:
        InputError: It reads as transformers' processor does, which has its own words and pictures.
    """
    from vlm_jax.data.conversation import TEMPLATES
    from vlm_jax.errors import InputError

    odd = [f"{name} {value}" for name, value in (("template", template), ("aspect", aspect)) if value != "own"]
    if odd and model.config.as_transformers is not None:
        raise InputError(f"{', '.join(odd)} for a model that reads as transformers does", "one of both")
    if template != "own":
        model = dataclasses.replace(model, template=TEMPLATES[template])
    if aspect != "own":
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, aspect=aspect))
    return model


def map_base(folder: Path) -> tuple["LlavaConfig", "Params"]:
    """A base as :class:`~vlm_jax.checkpoints.stored.StoredArray`, which stay in their files until they are looked at.

    Raises:
        InputError: The checkpoint is broken, or of a layout that has to be converted first.
    """
    from vlm_jax.checkpoints.special_ids import tokenizer_beside

    config, base, _ = _open_base(folder, tokenizer_beside)
    return config, base


def _open_base(
    folder: Path, open_tokenizer: Callable[[Path], "Tokenizer | None"], told: bool = True
) -> tuple["LlavaConfig", "Params", "Tokenizer | None"]:
    """Says on the standard error stream, apart from a verb's result, what the files get wrong and what was decided."""
    from vlm_jax.checkpoints.hf_config import check_config
    from vlm_jax.checkpoints.native import CONFIG_FILE, open_native
    from vlm_jax.checkpoints.peft_files import is_adapter
    from vlm_jax.checkpoints.sources import open_hf
    from vlm_jax.errors import InputError
    from vlm_jax.files import read_json

    native = (folder / CONFIG_FILE).exists()
    if not folder.is_dir():
        raise InputError("no such folder (nothing is downloaded)", "a checkpoint's", file=str(folder))
    if not native and is_adapter(folder):
        raise InputError("an adapter", "--checkpoint with its base, and --adapter with this", file=str(folder))
    if not native and not (folder / "config.json").exists():
        raise InputError("no config.json", "a checkpoint's folder, with config.json and weights", file=str(folder))
    if not native and "text_config" not in read_json(folder / "config.json"):
        wanted = "transformers' layout, or our own: vlm-jax convert makes it from every other"
        raise InputError("a checkpoint of another layout", wanted, file=str(folder / "config.json"))
    check_config(folder)
    tokenizer = open_tokenizer(folder)
    if native:
        config, base, remarks = open_native(folder, tokenizer)
    else:
        source = open_hf(folder, tokenizer)
        config, base, remarks = source.config, source.stored(), source.remarks
    for remark in remarks if told else ():
        note(folder, remark)
    return config, base, tokenizer


def config_of(folder: Path) -> "LlavaConfig":
    """The config of a base alone; what its files get wrong is said when it is opened."""
    from vlm_jax.checkpoints.special_ids import tokenizer_beside

    return _open_base(folder, tokenizer_beside, told=False)[0]


def preset_of(config: "LlavaConfig") -> str | None:
    """The name of the preset that a checkpoint is of, if it is of one."""
    from vlm_jax.checkpoints.hf_config import preset_differences
    from vlm_jax.config import PRESETS

    return next((name for name, preset in PRESETS.items() if not preset_differences(config, preset)), None)


def open_policy(model: Model, adapter: Path | None) -> "Params":
    """The adapter of a model that answers; without a folder one that changes nothing.

    Raises:
        InputError: The adapter is broken, changes nothing, or has a head.
    """
    return policy_of(open_role(model, adapter), adapter)


def policy_of(role: "Params", adapter: Path | None) -> "Params":
    """The low-rank updates of a role that was read from a folder.

    Raises:
        InputError: The role changes nothing, or has a head: it scores, and would not change a word.
    """
    from vlm_jax.errors import InputError
    from vlm_jax.models.adapters import changes_nothing

    if "head" in role:
        raise InputError("a reward model, or a value model (it has a head)", "a policy's adapter", file=str(adapter))
    if adapter is not None and changes_nothing(role["lora"]):
        found = "an adapter that changes nothing: A or B of every projection is zero"
        raise InputError(found, "one that was trained", file=str(adapter))
    return role["lora"]


def open_role(model: Model, adapter: Path | None) -> "Params":
    """An adapter folder's role on the mesh; without a folder an adapter that changes nothing.

    One shape for both means one compiled function for the bare base and for every adapter over it. Says on the standard
    error stream what of an adapter a reader should know.

    Raises:
        InputError: The adapter is broken, or of a higher rank than the model was opened for; it belongs to another
            projector than the model has; or it scores and was trained to read otherwise.
    """
    import jax

    from vlm_jax.checkpoints.adapter_remarks import remarks_on
    from vlm_jax.checkpoints.adapters import load_adapter
    from vlm_jax.checkpoints.reading import odd_reading
    from vlm_jax.models.adapters import init_lora
    from vlm_jax.parallel.compile import place

    _check_projector(model, adapter)
    if adapter is None:
        return place(model.mesh, {"lora": init_lora(model.config, jax.random.key(0))})
    if remark := odd_reading(adapter, model.config):
        note(adapter, remark)
    for remark in remarks_on(adapter, model.folder):
        note(adapter, remark)
    return place(model.mesh, load_adapter(adapter, model.config))


def _check_projector(model: Model, adapter: Path | None) -> None:
    """One base is held for all roles, and with it one projector."""
    from vlm_jax.checkpoints.peft_files import open_adapter
    from vlm_jax.errors import InputError

    brings = adapter is not None and bool(open_adapter(adapter).projector)
    if brings and model.projector_of is None:
        wanted = "an adapter over the base's own, or vlm-jax merge of base and adapter"
        raise InputError("an adapter with a projector of its own beside others", wanted, file=str(adapter))
    if model.projector_of is not None and (not brings or adapter.resolve() != model.projector_of.resolve()):
        found = f"{adapter or 'the bare base'} under the projector of {model.projector_of}"
        raise InputError(found, "adapters that share a projector")
