"""Levels of what can be done to a kernel, for `sensitivity`: a change is a function and a line."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hcjax.graph import qtensor
from hcjax.graph.ops import fixed_point
from hcjax.prune import allocation
from hcjax.prune.masks import smallest


class Change(NamedTuple):
    """One way to change a kernel.

    apply: (kernel, strength, axis of its output channels or None) -> kernel. strength: (level,
    size) -> int, > 0 where the kernel changes; the part of a level that is traced. left: level ->
    part of a float32 kernel that is left. legal: level -> whether it is one. levels: the default.
    """

    apply: Callable[[jax.Array, jax.Array, int | None], jax.Array]
    strength: Callable[[float, int], int]
    left: Callable[[float], float]
    legal: Callable[[float], bool]
    levels: tuple[float, ...]


def _pruned(kernel: jax.Array, count: jax.Array, axis: int | None) -> jax.Array:
    del axis  # all channels alike
    gone = smallest(jnp.abs(kernel).reshape(-1), count)
    return jnp.where(gone.reshape(kernel.shape), 0, kernel)


def _rounded(kernel: jax.Array, most: jax.Array, axis: int | None) -> jax.Array:
    others = tuple(a for a in range(kernel.ndim) if a != axis)
    width = jnp.abs(kernel).max(others, keepdims=True).astype(jnp.float32)
    step = jnp.where(width > 0, width, 1) / most
    return (fixed_point.quantize(kernel, step, -most, most) * step).astype(kernel.dtype)


CHANGES = {
    # the weights of least magnitude become zero, as by `prune.masks(scope={path: sparsity})`
    "sparsity": Change(
        _pruned,
        strength=allocation.count,
        left=lambda sparsity: 1 - sparsity,
        legal=lambda sparsity: 0 <= sparsity < 1,
        levels=(0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.97, 0.98, 0.99, 0.995),
    ),
    # symmetric integers with one step per output channel, as by `fake_quantize(bits=...)`
    "bits": Change(
        _rounded,
        strength=lambda bits, size: qtensor.limits(bits, symmetric=True)[1],
        left=lambda bits: bits / 32,
        legal=qtensor.BITS.__contains__,
        levels=(8, 7, 6, 5, 4, 3, 2),
    ),
}
