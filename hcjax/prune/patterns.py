"""Sparsity patterns: which weights are pruned together, and how many of a group are kept.

In: a leaf's scores. Out: the scores of its blocks, or a mask.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError


class Block(NamedTuple):
    """A sparsity pattern: whole blocks of `size` along a leaf's last axes; 0 is a whole axis.

    `Block((0, 0, 0, 1))` is one filter of an HWIO kernel, `Block((4, 4))` a tile of its channels.
    """

    size: tuple[int, ...]


class NofM(NamedTuple):
    """A sparsity pattern: n of every m consecutive weights along an axis are kept.

    `(n, m)` stands for the default axis, the input channels of HWIO and (in, out) kernels. For OIHW
    and (out, in) kernels, as in Equinox, give `axis=1`.
    """

    n: int
    m: int
    axis: int = -2


Structure = tuple[int, int] | NofM | Block


def checked(structure: Structure | None) -> NofM | Block:
    """Checks a pattern, and converts None to blocks of one weight and (n, m) to an `NofM`.

    Raises:
      ConfigError: if it is not a pattern.
    """
    if structure is None:
        return Block(())
    if type(structure) is tuple and len(structure) == 2:
        structure = NofM(*structure)
    sizes = structure.size if isinstance(structure, Block) else structure
    if (
        not isinstance(structure, NofM | Block)
        or not isinstance(sizes, tuple)
        or not all(isinstance(n, int | np.integer) for n in sizes)
    ):
        raise ConfigError(
            "structure must be None, (n, m), NofM(n, m, axis) or Block((size, ...)), of whole "
            f"numbers, got {structure!r}"
        )
    if isinstance(structure, NofM) and not 0 < structure.n <= structure.m:
        raise ConfigError(f"N:M needs 0 < n <= m, got {structure.n}:{structure.m}")
    return structure


def n_of_m(path: str, scores: jax.Array, structure: NofM) -> jax.Array:
    """Makes a mask that keeps the n highest of every m consecutive scores along an axis."""
    n, m, axis = structure
    if not -scores.ndim <= axis < scores.ndim or scores.shape[axis] % m:
        raise ConfigError(
            f"{path} {scores.shape} has no multiple of {m} weights along axis {axis}, as {n}:{m} "
            "needs; give NofM(n, m, axis), or leave it out with select="
        )
    along = jnp.moveaxis(scores, axis, -1)
    groups = along.reshape(*along.shape[:-1], along.shape[-1] // m, m)
    own, other = groups[..., :, None], groups[..., None, :]
    later = np.arange(m)[None, :] > np.arange(m)[:, None]
    better = ((other > own) | ((other == own) & later)).sum(-1)
    return jnp.moveaxis((better < n).reshape(along.shape), -1, axis)


def unit_scores(path: str, scores: jax.Array, block: Block) -> jax.Array:
    """Computes the mean score of each block, in float32: in bfloat16 many would be equal."""
    size = _block(path, scores.shape, block)
    split = [n for d, b in zip(scores.shape, size, strict=True) for n in (d // b, b)]
    dtype = jnp.promote_types(scores.dtype, jnp.float32)
    return scores.reshape(split).mean(tuple(range(1, 2 * len(size), 2)), dtype)


def spread(mask: jax.Array, shape: Sequence[int], block: Block) -> jax.Array:
    """Expands a mask of blocks to one of weights."""
    for axis, b in enumerate(_block("", shape, block)):
        mask = jnp.repeat(mask, b, axis) if b > 1 else mask
    return mask


def _block(path: str, shape: Sequence[int], block: Block) -> tuple[int, ...]:
    """Computes a block's size along every axis of a leaf."""
    if len(block.size) > len(shape):
        raise ConfigError(f"{path} has rank {len(shape)}, less than a block of {block.size}")
    last = [b or d for b, d in zip(block.size, shape[len(shape) - len(block.size) :], strict=True)]
    size = (*[1] * (len(shape) - len(last)), *last)
    if any(b < 1 or d % b for d, b in zip(shape, size, strict=True)):
        raise ConfigError(
            f"{path} {tuple(shape)} is not divided by blocks of {block.size}; leave it out with "
            "select="
        )
    return size
