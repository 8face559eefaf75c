"""Ways to compress one kernel, for `sensitivity`. A new one is one function and one line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hcjax.graph import qtensor
from hcjax.graph.ops import fixed_point
from hcjax.prune import allocation
from hcjax.prune.masks import smallest
from hcjax.prune.scores import magnitude


class Change(NamedTuple):
    """One way to compress a kernel, to a level such as a sparsity or a number of bits.

    Attributes:
      apply: (kernel, strength, axis of the output channels or None) -> compressed kernel.
      strength: (level, size of the kernel) -> int, > 0 where the kernel changes. The level itself
        is static; this number is traced, so that all levels share one compiled program.
      left: level -> size of the compressed kernel, as a fraction of its float32 size.
      legal: level -> whether it is in range.
      levels: the default levels, from the mildest on.
    """

    apply: Callable[[jax.Array, jax.Array, int | None], jax.Array]
    strength: Callable[[float, int], int]
    left: Callable[[float], float]
    legal: Callable[[float], bool]
    levels: tuple[float, ...]


def _pruned(kernel: jax.Array, count: jax.Array, axis: int | None) -> jax.Array:
    del axis  # one threshold for all channels
    pruned = smallest(magnitude(kernel).reshape(-1), count)
    return jnp.where(pruned.reshape(kernel.shape), 0, kernel)


def _rounded(kernel: jax.Array, qmax: jax.Array, axis: int | None) -> jax.Array:
    other_axes = tuple(a for a in range(kernel.ndim) if a != axis)
    largest = jnp.abs(kernel).max(other_axes, keepdims=True).astype(jnp.float32)
    scale = jnp.where(largest > 0, largest, 1) / qmax
    return (fixed_point.quantize(kernel, scale, -qmax, qmax) * scale).astype(kernel.dtype)


CHANGES = {
    # zeroes the weights of least magnitude, like `prune.masks(scope={path: sparsity})`
    "sparsity": Change(
        _pruned,
        strength=allocation.count,
        left=lambda sparsity: 1 - sparsity,
        legal=lambda sparsity: 0 <= sparsity < 1,
        levels=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995),
    ),
    # rounds to symmetric integers with one scale per output channel, like `fake_quantize(bits=...)`
    "bits": Change(
        _rounded,
        strength=lambda bits, size: qtensor.limits(bits, symmetric=True)[1],
        left=lambda bits: bits / 32,
        legal=qtensor.BITS.__contains__,
        levels=(8, 7, 6, 5, 4, 3, 2),
    ),
}
