"""From the name of a model to its class."""

import importlib
from dataclasses import dataclass

from ..api.model import lmms


@dataclass(frozen=True)
class ModelManifest:
    model_id: str
    simple_class_path: str | None = None
    chat_class_path: str | None = None
    aliases: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.simple_class_path is None and self.chat_class_path is None:
            raise ValueError(f"ModelManifest('{self.model_id}') requires at least one class path")


class ModelRegistryV2:
    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        self._manifests: dict[str, ModelManifest] = {}

    def register_manifest(self, manifest, *, overwrite=False) -> None:
        if manifest.model_id in self._manifests and not overwrite:
            raise ValueError(f"'{manifest.model_id}' is registered already")
        self._manifests[manifest.model_id] = manifest

    def get_model_class(self, model_name, force_simple=False):
        """A chat class goes first; a class of the wrong kind is refused."""
        if (manifest := self._manifests.get(model_name)) is None:
            raise ValueError(f"Model '{model_name}' not found among {sorted(self._manifests)}")
        chat = manifest.chat_class_path is not None and not (force_simple and manifest.simple_class_path)
        module, _, name = (manifest.chat_class_path if chat else manifest.simple_class_path).rpartition(".")
        found = getattr(importlib.import_module(module), name)
        if not (isinstance(found, type) and issubclass(found, lmms)):
            raise TypeError(f"'{name}' is not a subclass of lmms")
        if found.is_simple == chat:
            raise TypeError(f"'{name}' is registered as another kind than its is_simple says")
        return found
