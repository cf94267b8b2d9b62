"""What a reader should know of an adapter that is about to be used over a base."""

from pathlib import Path

from vlm_jax.checkpoints.hashes import weights_sha256
from vlm_jax.checkpoints.native import CONFIG_FILE as NATIVE_CONFIG
from vlm_jax.checkpoints.peft_files import Adapter, open_adapter
from vlm_jax.files import read_json


def remarks_on(folder: Path, base: Path | None) -> list[str]:
    """Lines on types that were mixed, and on another base than the adapter was trained over.

    Args:
        folder: Of the adapter.
        base: Folder of the checkpoint that it is used over, or None where nobody knows.

    Raises:
        InputError: The adapter, or the record beside it, is broken.
    """
    adapter = open_adapter(folder)
    return _mixed_types(adapter) + (_other_base(adapter, base) if base is not None else [])


def _mixed_types(adapter: Adapter) -> list[str]:
    dtypes = adapter.file.dtypes()
    kinds = sorted({str(dtypes[here]) for here in adapter.names.values()})
    return [f"{' and '.join(kinds)} in one adapter: what they meet in is float32"] if len(kinds) > 1 else []


def _other_base(adapter: Adapter, base: Path) -> list[str]:
    """By the record of the run that trained it, else by the name that peft wrote.

    The same weights in another layout, or under another name, look like others: told, not refused.
    """
    record = adapter.folder.parent / "run.json"
    trained = (read_json(record).get("base") or {}) if record.exists() else {}
    if sha256 := trained.get("sha256"):
        same = sha256 == weights_sha256(base)
        return [] if same else [f"trained over {trained.get('source')}, whose weights are other files than {base}'s"]
    named = adapter.raw.get("base_model_name_or_path")
    if not named or _last(named) in _names_of(base):
        return []
    return [f"trained over {named} by its adapter_config.json; nothing says that {base} is the same"]


def _names_of(base: Path) -> set[str]:
    found = {base.resolve().name}
    if (base / NATIVE_CONFIG).exists():
        found.add(_last(str((read_json(base / NATIVE_CONFIG).get("source") or {}).get("path", ""))))
    return found


def _last(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]
