"""Rules for convolutions of int8: the forms for which XLA:CPU has no fast kernel.

Both are exact: the same int32 sums, in another way.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.accelerate.rules.canonical import Conv, conv, refused
from hcjax.core.walker import Eqn, Place

_NARROW = 16  # output channels; the fast kernel begins at 32
_EXACT = 2**24  # below it float32 holds every whole number
_FEW = 4  # input channels
_LARGEST = 2**14  # product of two int8


def exact_float(eqn: Eqn, place: Place) -> Callable | str:
    """Computes an int8 convolution from few channels in float32, which holds its sums exactly.

    From one input channel int8 takes 9 times as long as float32.
    """
    del place
    c = conv(eqn)
    if c.symbolic:
        return "a symbolic size"
    if why := _not_int8(eqn):
        return why
    products = math.prod(c.kernel[:-1])
    if products * _LARGEST >= _EXACT:
        return f"{products} products could pass 2^24"
    if c.kernel[-2] > _FEW:
        return f"{c.kernel[-2]} input channels; at most {_FEW} pay"
    return lambda x, k: _in_float(c, x, k)


def pixel_pairs(eqn: Eqn, place: Place) -> Callable | str:
    """Computes an int8 convolution to few channels on pairs of pixels, as channels.

    XLA:CPU has a fast kernel from 32 output channels on; with 16 it takes 8 times as long as
    float32. A pair of pixels has twice the channels, at 4/3 of the products for a 3 x 3 kernel.
    """
    del place
    c = conv(eqn)
    if why := refused(c) or _not_int8(eqn):
        return why
    if c.kernel[-1] > _NARROW:
        return f"{c.kernel[-1]} output channels; only up to {_NARROW} pay"
    plain = all(n == 1 for n in (*c.strides, *c.kernel_dilation))
    if not plain or c.kernel[-3] % 2 == 0 or c.kernel[-3] == 1 or c.out[-2] % 2:
        return "needs strides of 1, a kernel of odd width above 1, and an even width of the result"
    if min(c.padding[-1]) < 0:
        return "crops the image"
    return lambda x, k: _paired(c, x, k)


def _not_int8(eqn: Eqn) -> str:
    dtypes = [v.aval.dtype for v in (*eqn.invars, *eqn.outvars)]
    return "" if dtypes == [jnp.int8, jnp.int8, jnp.int32] else "not of int8"


def _in_float(c: Conv, x: jax.Array, k: jax.Array) -> jax.Array:
    x, k = (a.astype(jnp.float32) for a in c.inputs(x, k))
    y = c.run(x, k, preferred_element_type=jnp.float32)
    return c.result(y.astype(jnp.int32))


def _paired(c: Conv, x: jax.Array, k: jax.Array) -> jax.Array:
    """Returns a convolution [.., W, C] * [.., K, C, O] as [.., W/2, 2C] * [.., (K+1)/2, 2C, 2O]."""
    x, k = c.inputs(x, k)
    none = [(0, 0, 0)]
    low, high = c.padding[-1]
    spread = none * (k.ndim - 3)
    zero = jnp.zeros((), k.dtype)
    sides = [lax.pad(k, zero, [*spread, (s, 1 - s, 0), *none * 2]) for s in (0, 1)]
    k = jnp.stack(sides, -2)  # [.., K + 1, C, 2, O]
    *around, width, channels, _, outputs = k.shape
    k = k.reshape(*around, width // 2, 2 * channels, 2 * outputs)
    # without the barrier the image is made again, and slowly, inside the padding
    x = lax.optimization_barrier(x)
    x = lax.pad(x, zero, [*none * (x.ndim - 2), (low, high, 0), *none])
    *before, columns, _ = x.shape
    x = lax.optimization_barrier(x).reshape(*before, columns // 2, 2 * channels)
    y = c.run(x, k, padding=(*c.padding[:-1], (0, 0)))
    return c.result(y.reshape(c.out))
