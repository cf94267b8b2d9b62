"""The drawn world as a registered TensorFlow Datasets builder (no TensorFlow needed)."""

from vlm_jax.scenes.tfds_scenes.scenes import Scenes, ScenesConfig

__all__ = ["Scenes", "ScenesConfig"]
