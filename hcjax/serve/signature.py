"""What a network takes and gives, in the words of the Open Inference Protocol."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax.data import normalise
from hcjax.errors import ConfigError
from hcjax.graph import interface

DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
}
BYTES = "BYTES"  # image files


class Tensor(NamedTuple):
    """One array that a network takes or gives.

    shape: of one example. batched: whether an axis of the examples comes before it.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    batched: bool

    @property
    def sizes(self) -> list[int]:
        """The shape as the protocol writes it, -1 for any number of examples."""
        return [-1, *self.shape] if self.batched else list(self.shape)


class Pixels(NamedTuple):
    """How images come to a network: their shape (H, W, C), and float32[C] of pixels in 0..1."""

    shape: tuple[int, int, int]
    mean: np.ndarray | None
    std: np.ndarray | None
    dtype: Any

    def ready(self, images: np.ndarray) -> np.ndarray:
        """Returns uint8[N, H, W, C] as the network takes it."""
        images = images if self.mean is None else normalise(images, self.mean, self.std)
        return images.astype(self.dtype)


class Signature(NamedTuple):
    """What a network takes and gives, and how pixels become what it takes, if it takes images."""

    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    pixels: Pixels | None = None


def signature(inputs: Any, outputs: Any, about: Mapping[str, Any]) -> Signature:
    """Returns the signature of a network.

    Args:
      inputs, outputs: trees of `Leaf`, as of a Model. about: of `hcjax.load_any`.

    Raises:
      ConfigError: if it takes or gives a dtype that the protocol has no name for.

    Example:
      >>> leaf = interface.Leaf((4,), np.float32)
      >>> signature((leaf,), leaf, {}).inputs
      (Tensor(name='images', datatype='FP32', shape=(4,), batched=True),)
    """
    names = {np.dtype(dtype): name for name, dtype in DATATYPES.items()}

    def tensors(tree, alone):
        found = []
        leaves = jax.tree.leaves(tree)
        for name, leaf in zip(interface.names(tree, alone), leaves, strict=True):
            if np.dtype(leaf.dtype) not in names:
                known = ", ".join(map(str, names))
                raise ConfigError(f"{name} is {leaf.dtype}; a server has names for {known}")
            datatype = names[np.dtype(leaf.dtype)]
            found.append(Tensor(name, datatype, tuple(leaf.shape), leaf.batched))
        return tuple(found)

    return Signature(tensors(inputs, "images"), tensors(outputs, "logits"), _pixels(inputs, about))


def _pixels(inputs: Any, about: Mapping[str, Any]) -> Pixels | None:
    """Returns how images come to a network; None if it takes none, or does not say how."""
    leaves = jax.tree.leaves(inputs)
    if len(leaves) != 1 or not leaves[0].batched:
        return None
    leaf = leaves[0]
    if len(leaf.shape) != 3 or leaf.shape[-1] not in (1, 3):
        return None
    if not np.issubdtype(leaf.dtype, np.floating):
        return Pixels(leaf.shape, None, None, leaf.dtype)
    if not {"mean", "std"} <= set(about):
        return None
    mean, std = (np.float32(about[key]) for key in ("mean", "std"))
    return Pixels(leaf.shape, mean, std, leaf.dtype)
