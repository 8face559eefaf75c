"""Sparsity allocation: how a sparsity is distributed over the layers."""

from __future__ import annotations

import math
import numbers
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from hcjax.errors import ConfigError, no_match

# allocations with one threshold over all layers
TOGETHER = ("global", "lamp")


class Ramp(NamedTuple):
    """A sparsity between two others, interpolated as a count of weights, so that its end is exact.

    Attributes:
      initial, final: sparsities, in [0, 1).
      left: float32[], the fraction of the way that remains: 1 at `initial`, 0 at `final`.
    """

    initial: float
    final: float
    left: jax.Array


def count(sparsity: float | jax.Array | Ramp, size: int) -> int | jax.Array:
    """Computes floor(sparsity · size + 1/2), the number of `size` weights to prune.

    Args:
      sparsity: in [0, 1). If it is traced, the product is rounded to float32. A `Ramp` with
        `left` 0 gives exactly the count of `final`.
      size: number of weights, >= 0.

    Returns:
      int, or int32[] if sparsity, or `left` of a `Ramp`, is traced.

    Raises:
      ConfigError: if sparsity is not a number, or out of range.

    Example:
      >>> count(0.9, 25), count(0.0, 3)
      (23, 0)
    """
    if isinstance(sparsity, Ramp):
        first, last = count(sparsity.initial, size), count(sparsity.final, size)
        return last - jnp.floor((last - first) * sparsity.left + 0.5).astype(jnp.int32)
    if isinstance(sparsity, jax.Array):
        if not isinstance(sparsity, jax.core.Tracer) and not 0 <= float(sparsity) < 1:
            raise ConfigError(f"sparsity must be in [0, 1), the part that goes, got {sparsity}")
        return jnp.clip(jnp.floor(sparsity * size + 0.5), 0, size).astype(jnp.int32)
    if not isinstance(sparsity, numbers.Real) or not 0 <= sparsity < 1:
        raise ConfigError(f"sparsity must be in [0, 1), the part that goes, got {sparsity!r}")
    return math.floor(float(sparsity) * size + 0.5)  # a NumPy scalar would round to its own type


def layerwise(
    shapes: Mapping[str, Sequence[int]],
    *,
    sparsity: float | jax.Array | Ramp | None,
    scope: str | Mapping[str, float | Ramp],
) -> dict[str, float | jax.Array | Ramp]:
    """Allocates a sparsity to the layers.

    Args:
      shapes: path of each kernel -> its shape.
      sparsity: of all weights together; may be traced for "uniform".
      scope: "uniform", "erk", or a mapping from patterns of whole paths to sparsities, the first
        match counts; a layer without a match is not pruned.

    Returns:
      path -> sparsity in [0, 1).

    Raises:
      ConfigError: if the scope is unknown, a pattern matches no layer, or both a mapping and a
        sparsity are given.

    Example:
      >>> layerwise({"a": (4, 4), "b": (2, 2)}, sparsity=None, scope={"b": 0.5})
      {'a': 0.0, 'b': 0.5}
    """
    if isinstance(scope, Mapping):
        if sparsity is not None:
            raise ConfigError("scope says each layer's sparsity: leave sparsity out")
        for pattern in scope:
            try:
                matches = any(re.fullmatch(pattern, path) for path in shapes)
            except (re.error, TypeError) as error:
                raise ConfigError(
                    f"scope: {pattern!r} is not a regular expression: {error}"
                ) from error
            if not matches:
                raise ConfigError(f"scope: {no_match(pattern, 'pruned layer', list(shapes))}")
        return {
            path: next((s for pattern, s in scope.items() if re.fullmatch(pattern, path)), 0.0)
            for path in shapes
        }
    if scope == "uniform":
        return dict.fromkeys(shapes, sparsity)
    if scope == "erk":
        return erk(shapes, sparsity)
    raise ConfigError(f"scope must be global, lamp, uniform, erk or a mapping, got {scope!r}")


def erk(shapes: Mapping[str, Sequence[int]], sparsity: float) -> dict[str, float]:
    """Computes Erdős–Rényi-kernel sparsities: thin layers get a lower sparsity.

    The density of a kernel of sizes d is min(1, ε · Σ d / Π d), with the ε at which all layers
    together have the density 1 - sparsity.

    Args:
      shapes: path -> shape, HWIO or IO.
      sparsity: of all weights together, a number in [0, 1).

    Returns:
      path -> sparsity in [0, 1).

    Raises:
      ConfigError: if sparsity is out of range or traced.

    Reference:
      Evci et al., "Rigging the Lottery", 2019, arXiv:1911.11134, section 3 (1).

    Example:
      >>> {k: round(v, 3) for k, v in erk({"a": (3, 3, 1, 8), "b": (128, 64)}, 0.9).items()}
      {'a': 0.168, 'b': 0.906}
    """
    if not isinstance(sparsity, numbers.Real) or not 0 <= sparsity < 1:
        raise ConfigError(f"erk needs a sparsity that is a number in [0, 1), got {sparsity!r}")
    left = (1 - sparsity) * sum(math.prod(shape) for shape in shapes.values())
    dense = {path for path, shape in shapes.items() if not math.prod(shape)}  # empty arrays
    while True:
        rest = {path: shape for path, shape in shapes.items() if path not in dense}
        share = sum(sum(shape) for shape in rest.values())
        scale = (left - sum(math.prod(shapes[path]) for path in dense)) / share if share else 0.0
        density = {path: scale * sum(s) / math.prod(s) for path, s in rest.items()}
        full = {path for path, d in density.items() if d > 1}
        if not full:
            return {path: 0.0 if path in dense else 1 - density[path] for path in shapes}
        dense |= full


def lamp(scores: jax.Array) -> jax.Array:
    """Normalises a layer's scores, so that one threshold can serve all layers.

    s² / Σ t², the sum over this score and all that would be pruned after it. The largest score
    becomes 1, so that no layer loses all its weights while more weights remain than there are
    layers.

    Args:
      scores: float array, of one layer; a score below 0 counts as 0.

    Returns:
      float32 array like `scores`, in [0, 1], in the same order; of equal scores the one with the
      lower index is not the higher.

    Reference:
      Lee, Park, Mo, Ahn and Shin, "Layer-adaptive Sparsity for the Magnitude-based Pruning", 2021,
      arXiv:2010.07611, equation 4.

    Example:
      >>> [round(x, 2) for x in lamp(jnp.array([3.0, 0.0, 4.0])).tolist()]
      [0.36, 0.0, 1.0]
    """
    flat = jnp.maximum(scores.reshape(-1).astype(jnp.float32), 0)
    order = jnp.argsort(flat, stable=True)
    largest = jnp.maximum(flat.max(initial=0), jnp.finfo(jnp.float32).tiny)
    squares = jnp.square(flat[order] / largest)
    left = jnp.cumsum(squares[::-1])[::-1]
    parts = jnp.where(squares > 0, squares / jnp.where(left > 0, left, 1), 0)
    # rounding must not change the order, hence the running maximum
    return jnp.zeros_like(flat).at[order].set(jax.lax.cummax(parts)).reshape(scores.shape)
