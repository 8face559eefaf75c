"""Rules for convolutions that XLA:CPU compiles badly."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import lax

from hcjax.accelerate.rules.canonical import Conv, columns, conv, dot, refused
from hcjax.core.walker import Eqn, Place, bind

_FEW_TAPS = 32  # of a kernel; beyond, im2col moves more bytes than it saves
_FEW_PIXELS = 4  # of a result; from 3 × 3 on XLA's own kernel is as fast


def few_pixels(eqn: Eqn, place: Place) -> Callable | str:
    """Computes a convolution with few output pixels as im2col and one matmul.

    3 x 3 taps on 2 x 2 pixels and 512 channels, batch 32: 289 → 12 ms, with oneDNN 293 → 8.
    """
    del place
    c = conv(eqn)
    if why := refused(c):
        return why
    if c.pixels > _FEW_PIXELS or not 1 < c.taps <= _FEW_TAPS:
        return f"{c.pixels} pixels, {c.taps} taps; at most {_FEW_PIXELS}, {_FEW_TAPS} pay"
    return lambda x, k: _matmul(c, x, k)


def canonical_in_loop(eqn: Eqn, place: Place) -> Callable | str:
    """Writes a loop body's convolution as NHWC and HWIO with explicit transposes.

    XLA:CPU only brings the entry computation's convolutions into the form its fast kernels take.
    Two layers of 16 → 64 channels in NCHW: 80 → 7.2 ms.
    """
    c = conv(eqn)
    if not place.loop:
        return "not in a loop"
    if c.canonical:
        return "canonical already"
    return c.barred


def barrier(eqn: Eqn, place: Place) -> Callable | str:
    """Puts an optimization barrier before a convolution's image, so that it is computed once.

    No gain on a single layer (6.9 ms either way); in residual networks the sums of several blocks
    would be computed in each of their consumers.
    """
    del place
    return lambda x, k: bind(eqn, [lax.optimization_barrier(x), k])[0]


def _matmul(c: Conv, x: jax.Array, k: jax.Array) -> jax.Array:
    """Returns a convolution as columns times a matrix."""
    x, k = c.inputs(x, k)
    cols = lax.optimization_barrier(columns(x, c))
    flat = cols.reshape(-1, cols.shape[-1])
    y = dot(c, flat, k.reshape(-1, k.shape[-1]), ((1,), (0,)))
    return c.result(y.reshape(c.out))
