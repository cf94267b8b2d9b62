"""Weight trees whose arrays still lie in their files, so that a large model is read a layer at a time."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from vlm_jax.arrays import Params
from vlm_jax.checkpoints.finite import not_finite
from vlm_jax.errors import InputError
from vlm_jax.parallel.memory import bytes_of, require_fits
from vlm_jax.parallel.mesh import path_name, shardings


@dataclasses.dataclass(frozen=True, eq=False)
class StoredArray:
    """An array that is read when it is looked at: ``np.asarray`` reads all of it, ``array[layer]`` one layer.

    Attributes:
        shape: Of the whole array, layers first where it is stacked.
        dtype: Of its values.
        read: Gives the whole array.
        read_layer: Gives one layer of a stacked array.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]
    read_layer: Callable[[int], np.ndarray]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, layer: int) -> np.ndarray:
        return self.read_layer(layer)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self.read(), dtype, copy=copy)


def place_stored(mesh: Mesh, tree: Params, arithmetic: str | None = None, masters: bool = True) -> Params:
    """Put stored weights on the mesh, one leaf after the other; each device gets its part alone.

    Args:
        mesh: The devices.
        tree: Stored or NumPy arrays.
        arithmetic: Type that the model computes in. Kernels take it once here, not anew at every token; the values are
            those that casting at each use gives. None leaves every leaf its type.
        masters: Leave float32 kernels as they are, for training that updates them.

    Raises:
        InputError: A value is none any more in that type, or the devices have less memory than the weights take.
    """

    def placed_type(path: Any, stored: np.dtype) -> np.dtype:
        masters_stay = masters and stored == np.float32
        kept = arithmetic is None or masters_stay or not path_name(path).endswith("/kernel")
        return stored if kept else np.dtype(arithmetic)

    def placed_shape(path: Any, leaf: StoredArray | np.ndarray) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(leaf.shape, placed_type(path, np.dtype(leaf.dtype)))

    def load(path: Any, leaf: StoredArray | np.ndarray, sharding: jax.sharding.Sharding) -> jax.Array:
        stored = np.asarray(leaf)
        stored = _cast(path_name(path), stored, placed_type(path, stored.dtype))
        # A copy, since an array over a mapped file would keep its pages in memory beside the device's.
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: np.array(stored[index]))

    require_fits(mesh, {"weights": bytes_of(jax.tree_util.tree_map_with_path(placed_shape, tree))})
    return jax.tree_util.tree_map_with_path(load, tree, shardings(mesh, tree))


def _cast(name: str, stored: np.ndarray, dtype: np.dtype) -> np.ndarray:
    if stored.dtype == dtype:
        return stored
    with np.errstate(over="ignore"):
        cast = stored.astype(dtype)
    if not_finite(cast):
        raise InputError(f"values of {name} beyond {dtype}", "--dtype float32")
    return cast
