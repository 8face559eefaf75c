"""Parameter trees by name: 'conv1/kernel' paths, selection by regex, sizes and a fingerprint.

In: any pytree of arrays or of `jax.ShapeDtypeStruct`. Out: names, masks of the same structure,
numbers. Nothing here is traced; everything works from static information but `sha256`.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np

from hcjax.errors import ConfigError, no_match

Select = Callable[[str, Any], bool]


def paths(tree: Any, is_leaf: Callable[[Any], bool] | None = None) -> list[tuple[str, Any]]:
    """Lists every leaf with its path, in the order of `jax.tree.leaves`.

    Args:
      tree: any pytree.
      is_leaf: additional leaves, see `jax.tree.leaves`.

    Returns:
      List of `(path, leaf)`; the path joins dictionary keys, attribute names and positions
      with '/'.

    Example:
      >>> [path for path, _ in paths({"conv1": {"kernel": 1.0, "bias": 2.0}, "blocks": [3.0]})]
      ['blocks/0', 'conv1/bias', 'conv1/kernel']
    """
    leaves = jax.tree_util.tree_flatten_with_path(tree, is_leaf)[0]
    return [("/".join(map(_key_name, path)), leaf) for path, leaf in leaves]


def by_path(tree: Any) -> dict[str, Any]:
    """Returns path -> leaf, in the order of `jax.tree.leaves`.

    Args:
      tree: any pytree.

    Raises:
      ConfigError: if two leaves have the same path, since a key holds a '/'.

    Example:
      >>> by_path({"conv1": {"kernel": 1.0}, "blocks": [3.0]})
      {'blocks/0': 3.0, 'conv1/kernel': 1.0}
    """
    leaves = paths(tree)
    found = dict(leaves)
    if len(found) < len(leaves):
        names = [path for path, _ in leaves]
        twice = next(name for name in names if names.count(name) > 1)
        raise ConfigError(f"two arrays have the path {twice!r}: rename the key that holds a '/'")
    return found


def mask(tree: Any, select: Select) -> Any:
    """Maps `select(path, leaf)` over the leaves; returns a tree of bools of the same structure.

    Args:
      tree: any pytree.
      select: predicate of the leaf's path and the leaf; must be static.

    Returns:
      Pytree of Python bools.

    Example:
      >>> mask({"a": np.zeros((2, 2)), "b": np.zeros(2)}, kernels)
      {'a': True, 'b': False}
    """
    values = [bool(select(path, leaf)) for path, leaf in paths(tree)]
    return jax.tree.unflatten(jax.tree.structure(tree), values)


def select(tree: Any, pattern: str | Sequence[str]) -> Any:
    """Selects the leaves whose whole path matches one of the patterns; returns a tree of bools.

    Args:
      tree: any pytree.
      pattern: a regular expression, or several, matched against the *whole* path
        (`re.fullmatch`): 'conv1/.*' selects a layer, '.*/bias' all biases.

    Returns:
      Pytree of Python bools with the structure of `tree`.

    Raises:
      ConfigError: if a pattern is not text, not a regular expression or matches no leaf.

    Example:
      >>> select({"conv1": {"kernel": 1.0}, "dense1": {"kernel": 2.0}}, "conv.*")
      {'conv1': {'kernel': True}, 'dense1': {'kernel': False}}
    """
    several = isinstance(pattern, Iterable) and not isinstance(pattern, str)
    patterns = list(pattern) if several else [pattern]
    if not all(isinstance(each, str) for each in patterns):
        raise ConfigError(
            f"a regular expression of whole paths is needed, or a list of them, got {pattern!r}"
        )
    names = [path for path, _ in paths(tree)]
    for each in patterns:
        try:
            matches = any(re.fullmatch(each, name) for name in names)
        except re.error as error:
            raise ConfigError(f"pattern {each!r} is not a regular expression: {error}") from error
        if not matches:
            raise ConfigError(f"pattern {no_match(each, 'parameter', names)}")
    return mask(tree, lambda path, _: any(re.fullmatch(each, path) for each in patterns))


def counts(tree: Any, chosen: Any) -> tuple[int, int]:
    """Counts the leaves that are chosen, and the scalars in them.

    Args:
      tree: pytree of arrays or ShapeDtypeStructs.
      chosen: tree of bools of its structure, from `mask` or `select`.

    Returns:
      (arrays, parameters).

    Example:
      >>> params = {"conv1": {"kernel": np.zeros((3, 4))}, "dense1": {"kernel": np.zeros(5)}}
      >>> counts(params, select(params, "conv.*"))
      (1, 12)
    """
    leaves = zip(jax.tree.leaves(tree), jax.tree.leaves(chosen), strict=True)
    used = [leaf for leaf, use in leaves if use]
    return len(used), num_parameters(used)


def counted(tree: Any, chosen: Any) -> str:
    """Writes how much of a tree is chosen; arguments as of `counts`.

    Example:
      >>> params = {"conv1": {"kernel": np.zeros((3, 4))}, "dense1": {"kernel": np.zeros(5)}}
      >>> counted(params, select(params, "conv.*"))
      '1 of 2 arrays, 12 of 17 parameters'
    """
    arrays, parameters = counts(tree, chosen)
    total = num_parameters(tree)
    return (
        f"{arrays} of {len(jax.tree.leaves(tree))} arrays, {parameters:,} of {total:,} parameters"
    )


def kernels(path: str, leaf: Any) -> bool:
    """Tells whether a leaf is a kernel: rank 2 or more, of any name.

    Biases, normalisation scales and PReLU slopes have rank 1 and are left out, as usual for
    weight decay and L1/L2. So are those with axes of length 1 for an image behind the channels,
    [C, 1, 1] or [C, 1, 1, 1], as Equinox keeps a convolution's bias.

    Args:
      path: ignored.
      leaf: array or ShapeDtypeStruct.

    Returns:
      True for convolution and dense kernels.

    Example:
      >>> kernels("dense1/kernel", np.zeros((4, 2))), kernels("dense1/bias", np.zeros(2))
      (True, False)
      >>> kernels("conv/weight", np.zeros((8, 1, 3, 3))), kernels("conv/bias", np.zeros((8, 1, 1)))
      (True, False)
    """
    del path  # the rank says it for every library's naming
    rank = len(leaf.shape)
    return rank == 2 or (rank > 2 and any(n != 1 for n in leaf.shape[1:]))


def num_parameters(tree: Any) -> int:
    """Counts the scalars in a tree.

    Args:
      tree: pytree of arrays or ShapeDtypeStructs (see `jax.eval_shape`: no memory is needed).

    Returns:
      The sum of the leaves' sizes.

    Example:
      >>> num_parameters({"kernel": np.zeros((3, 3, 1, 32)), "bias": np.zeros(32)})
      320
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def size_bytes(tree: Any) -> int:
    """Counts the bytes of a tree's arrays.

    Args:
      tree: pytree of arrays or ShapeDtypeStructs.

    Returns:
      The sum of size × bytes per element.

    Example:
      >>> size_bytes({"kernel": np.zeros((3, 3, 1, 32), np.float32)})
      1152
    """
    leaves = jax.tree.leaves(tree)
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)


def sha256(tree: Any) -> str:
    """Hashes a tree: digests are equal if and only if paths, dtypes, shapes and bits are.

    Args:
      tree: pytree of arrays; typed PRNG keys count by their data.

    Returns:
      64 hexadecimal digits.

    Note:
      Copies every leaf to the host. -0.0 and 0.0 differ, as do NaNs of different bits. The order
      of dictionary keys does not matter.

    Example:
      >>> sha256({"a": np.zeros(2, np.float32)})[:16]
      'b68b839f4164e11e'
    """
    digest = hashlib.sha256()
    for path, leaf in sorted(paths(tree), key=lambda item: item[0]):
        if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        array = np.asarray(leaf)
        digest.update(f"{path} {array.dtype} {array.shape}\n".encode())
        digest.update(array.tobytes())  # in C order for any memory layout
    return digest.hexdigest()


def _key_name(key: Any) -> str:
    """Formats one key of a path as plain text, for all key types of jax."""
    for attribute in ("key", "name", "idx"):
        if hasattr(key, attribute):
            return str(getattr(key, attribute))
    return str(key)
