"""The upper half of a product of two int32, on one device and on many."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax


def mulhi(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns int32: the upper 32 bits of the product of two int32 arrays, floor(a · b / 2^32).

    It is `lax.mulhi`, but written out in halves of 16 bits inside a program over several devices:
    there XLA refuses the primitive (jax 0.10 to 0.12).

    Example:
      >>> mulhi(jnp.array([2**30, -1]), jnp.array([8, 1])).tolist()
      [2, -1]
    """
    mesh = jax.sharding.get_abstract_mesh()
    return in_halves(a, b) if mesh.manual_axes and mesh.size > 1 else lax.mulhi(a, b)


def in_halves(a: jax.Array, b: jax.Array) -> jax.Array:
    """Returns `mulhi` by products of 16 bits, none of which leaves 32.

    Example:
      >>> in_halves(jnp.array([-(2**31), 2**31 - 1]), jnp.array([-(2**31), -3])).tolist()
      [1073741824, -2]
    """
    half = jnp.int32(16)
    high = lax.shift_right_arithmetic  # a = high · 2^16 + low, 0 <= low < 2^16
    (ah, al), (bh, bl) = ((high(x, jnp.full_like(x, half)), x & 0xFFFF) for x in (a, b))
    low = (al.astype(jnp.uint32) * bl.astype(jnp.uint32)) >> jnp.uint32(16)
    middle = ah * bl + low.astype(jnp.int32)
    other = al * bh + (middle & 0xFFFF)
    return (
        ah * bh
        + high(middle, jnp.full_like(middle, half))
        + high(other, jnp.full_like(other, half))
    )
