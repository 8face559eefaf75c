"""The interface of a network: the trees of arrays that it takes and gives, one `Leaf` for each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax import trees
from hcjax.core import brief


@dataclasses.dataclass(frozen=True)
class Leaf:
    """One array of a network's inputs or outputs.

    shape: of one example. dtype: of its numbers. batched: whether an axis of the examples comes
    before the shape; only numbers, of shape (), may be the same for a whole batch.
    """

    shape: tuple[int, ...]
    dtype: Any
    batched: bool = True

    def sizes(self, batch: Any) -> tuple[Any, ...]:
        """Returns the shape of the array for a batch of some size."""
        return (batch, *self.shape) if self.batched else self.shape

    def abstract(self, batch: Any) -> jax.ShapeDtypeStruct:
        """Returns the array for a batch of some size, without numbers."""
        return jax.ShapeDtypeStruct(self.sizes(batch), self.dtype)

    def __repr__(self) -> str:
        sizes = self.sizes("N")
        return f"{np.dtype(self.dtype)}[{', '.join(map(str, sizes))}]"


def leaf_of(x: Any) -> Leaf:
    """Returns the Leaf of an example array: [N, ...], or a number for a whole batch.

    Example:
      >>> leaf_of(np.zeros((2, 28, 28), np.float32)), leaf_of(np.int32(3))
      (float32[N, 28, 28], int32[])
    """
    return Leaf(tuple(x.shape[1:]), x.dtype, x.ndim > 0)


def names(interface: Any, alone: str) -> list[str]:
    """Returns a name for each array of a tree: its path, or `alone` if it is the only one.

    Args:
      interface: tree of `Leaf`; the inputs are a tuple of all arguments.
      alone: "images" or "logits".

    Example:
      >>> one, tokens = Leaf((4,), np.float32), Leaf((7,), np.int32)
      >>> names((one,), "images"), names((one, {"text": tokens}), "images")
      (['images'], ['0', '1/text'])
      >>> names(({"image": one, "text": tokens},), "images")
      ['image', 'text']
    """
    found = trees.by_path(interface)
    if len(found) == 1:
        return [alone]
    if isinstance(interface, tuple) and len(interface) == 1:
        found = trees.by_path(interface[0])
    return [path or alone for path in found]


def flatten(interface: tuple, arguments: Sequence[Any]) -> list[Any]:
    """Returns the arrays of a network's arguments in order, after checking them.

    Args:
      interface: tree of `Leaf`, a tuple of all arguments.
      arguments: as many trees of arrays.

    Raises:
      ValueError: if the arguments have another structure, an array another shape or a dtype of
        another kind, or the arrays are for batches of several sizes; the message names the array.
    """
    arrays, treedef = jax.tree.flatten(tuple(arguments))
    arrays = [x if hasattr(x, "shape") else jnp.asarray(x) for x in arrays]
    expected, structure = jax.tree.flatten(interface)
    if treedef != structure:
        count = f"{len(interface)} input{'s' if len(interface) > 1 else ''}"
        raise ValueError(
            f"the network takes {count}, {describe(interface)}; got {describe(tuple(arguments))}"
        )
    batch = None
    for name, leaf, x in zip(names(interface, "images"), expected, arrays, strict=True):
        shape = x.shape
        if not leaf.batched:
            fits = shape == leaf.shape
        else:
            fits = len(shape) > 0 and tuple(shape[1:]) == leaf.shape
        if not fits:
            raise ValueError(f"{name} must be {sizes(leaf)}, got {shape}")
        if _kind(leaf.dtype) != _kind(x.dtype):
            raise ValueError(f"{name} must be {leaf}, got {x.dtype}")
        if leaf.batched:
            batch = shape[0] if batch is None else batch
            if batch is not shape[0] and batch != shape[0]:
                raise ValueError(
                    f"{name} is a batch of {shape[0]}, the arrays before are batches of {batch}"
                )
    # narrower or wider integers than the example's stand for the same numbers
    return [
        x.astype(leaf.dtype) if _kind(leaf.dtype) == "i" and x.dtype != leaf.dtype else x
        for leaf, x in zip(expected, arrays, strict=True)
    ]


def _kind(dtype: Any) -> str:
    """Returns "i" for integers, "f" for floats, and the name of any other dtype."""
    for kind, above in (("i", jnp.integer), ("f", jnp.floating)):
        if jnp.issubdtype(dtype, above):
            return kind
    return str(dtype)


def sizes(leaf: Leaf) -> str:
    """Formats the shape of an array, e.g. [N, 28, 28, 1]."""
    return f"[{', '.join(map(str, leaf.sizes('N')))}]"


def describe(interface: Any) -> str:
    """Formats a tree of arrays in one line, e.g. ({'image': float32[N, 4]}, int32[])."""
    described = jax.tree.map(_Text, interface)
    if isinstance(described, tuple) and len(described) == 1:
        described = described[0]
    return repr(described)


def examples(interface: tuple, given: Any) -> list[Any]:
    """Returns the checked flat arrays of examples that one value holds.

    Args:
      interface: tree of `Leaf`, a tuple of all arguments.
      given: the argument of a network that takes one; else a tuple or list of them.

    Raises:
      ValueError: if there is another count of inputs, or as in `flatten`.
    """
    if len(interface) > 1 and not isinstance(given, tuple | list):
        raise ValueError(
            f"the network takes {len(interface)} inputs, {describe(interface)}: give a tuple of "
            f"them, got {describe((given,))}"
        )
    if len(interface) == 1 and isinstance(interface[0], Leaf) and isinstance(given, list):
        given = np.asarray(given, interface[0].dtype)
    arguments = tuple(given) if len(interface) > 1 else (given,)
    return flatten(interface, arguments)


def count(interface: tuple, arrays: Sequence[Any]) -> int:
    """Returns the number of examples in the flat arrays of a network's arguments."""
    leaves = jax.tree.leaves(interface)
    return next(len(x) for leaf, x in zip(leaves, arrays, strict=True) if leaf.batched)


def part(interface: tuple, arrays: Sequence[Any], chosen: Any) -> list[Any]:
    """Returns some examples of the flat arrays of a network's arguments.

    Args:
      chosen: a slice or an array of indices.
    """
    leaves = jax.tree.leaves(interface)
    return [x[chosen] if leaf.batched else x for leaf, x in zip(leaves, arrays, strict=True)]


def batches(interface: tuple, arrays: Sequence[Any], size: int) -> list[list[Any]]:
    """Splits the flat arrays of a network's arguments into batches of a size, the last smaller."""
    starts = range(0, count(interface, arrays), size)
    return [part(interface, arrays, slice(i, i + size)) for i in starts]


class _Text:
    """An array as text, for `describe`."""

    def __init__(self, x: Any):
        self._x = x

    def __repr__(self) -> str:
        return repr(self._x) if isinstance(self._x, Leaf) else brief.value(self._x)
