"""Ops of the integer program and of files: rounding, look-up tables, codebooks."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.kind import INTEGER, Kind
from hcjax.graph.qtensor import dequantize


def _quantize(p: dict, x: jax.Array, scale: jax.Array) -> jax.Array:
    q = fixed_point.quantize(x, scale, p["least"], p["most"], p.get("zero", 0))
    return q.astype(jnp.int8)


def _requantize(p: dict, *values: jax.Array) -> jax.Array:
    bounds, count = p["bounds"], len(p["bounds"])
    terms, constants = [t.astype(jnp.int32) for t in values[:count]], values[count:]
    fixed = fixed_point.Fixed(constants[:count], *constants[count:], None)
    q = fixed_point.requantize(terms, bounds, fixed, p["least"], p["most"])
    q = q.astype(jnp.int8 if p["least"] >= -128 and p["most"] <= 127 else jnp.int32)
    # without it XLA rounds again in every consumer: ResNet-20 takes 44 ms instead of 38 on a CPU
    return lax.optimization_barrier(q)


def _look_up(p: dict, q: jax.Array, table: jax.Array) -> jax.Array:
    return fixed_point.look_up(q.astype(jnp.int32), table, p["axis"])


def _dequantize(p: dict, acc: jax.Array, scale: jax.Array, *offset: jax.Array) -> jax.Array:
    total = acc.astype(jnp.int32)
    total = total + offset[0] if offset else total
    shape = [-1 if a == p["axis"] else 1 for a in range(acc.ndim)] if scale.ndim else ()
    return total.astype(jnp.float32) * scale.reshape(shape)


def spread(codebook: jax.Array, indices: jax.Array, below: int) -> jax.Array:
    """Returns the array of the codebook's values at the indices.

    Args:
      codebook: float[K], ascending until it is trained.
      indices: int[...], -below to K - below. Index 0 is the number 0 exactly, -1 is
        codebook[below - 1], and 1 is codebook[below].
      below: count of the values with negative indices.

    Example:
      >>> spread(jnp.array([-2.0, 1.0, 3.0]), jnp.array([[-1, 0], [1, 2]]), 1).tolist()
      [[-2.0, 0.0], [1.0, 3.0]]
    """
    zero = jnp.zeros(1, codebook.dtype)
    table = jnp.concatenate([codebook[:below], zero, codebook[below:]])
    return table[indices.astype(jnp.int32) + below]


INTEGER_KINDS = {
    "quantize": Kind(INTEGER, _quantize, ("least", "most"), optional={"zero": 0}),
    "requantize": Kind(INTEGER, _requantize, ("bounds", "least", "most")),
    "look_up": Kind(INTEGER, _look_up, ("axis",)),
    "dequantize": Kind(INTEGER, _dequantize, ("axis",)),
    "dequantize_kernel": Kind(INTEGER, lambda p, q: dequantize(q)),
    "spread": Kind(
        INTEGER, lambda p, codebook, indices: spread(codebook, indices, p["below"]), ("below",)
    ),
}
