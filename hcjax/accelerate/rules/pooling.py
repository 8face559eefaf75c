"""Pooling rules: windows of maxima and sums, forward and backward, by slices and reshapes.

XLA:CPU compiles `reduce_window` and `select_and_scatter_add` to scalar loops over windows; slices,
reshapes and elementwise maxima are vectorised. `select_and_scatter_add`, the gradient of a
max-pool, alone takes 2 to 5 times the rest of a small network's training step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.core.walker import Eqn, Place, bind

_FEW = 4  # elements of windows that lie side by side, which XLA's loop takes as fast
_MOST = 64  # elements of a window; beyond, that many slices compile and run slower than a loop


def max_pool(eqn: Eqn, place: Place) -> Callable | str:
    """Takes the maximum over a window as a reshape, or as maxima of shifted slices.

    3 x 3 windows by 2, 64 channels at 32 x 32 pixels, batch 32: 1.5 → 0.8 ms.
    The derivative stays that of the plain primitive: the first maximum of a window gets it all.
    """
    del place
    if why := _refused(eqn.params, eqn.invars[0].aval, eqn.outvars[0].aval):
        return why
    window, strides, padding = _window(eqn.params)

    def plain(x):
        return bind(eqn, [x])[0]

    @jax.custom_jvp
    def pool(x):
        return _pool(x, window, strides, padding, jnp.maximum, _lowest(x.dtype))

    @pool.defjvp
    def derivative(primals, tangents):
        return pool(*primals), jax.jvp(plain, primals, tangents)[1]

    return pool


def wide_max_pool(eqn: Eqn, place: Place) -> Callable | str:
    """Takes the maximum over a window that is large, or overlaps, as a maximum of shifted slices.

    3 x 3 windows by 2, 64 channels at 32 x 32 pixels, batch 32: 2.6 → 1.4 ms (AMD EPYC).
    """
    window, strides, _ = _window(eqn.params)
    if window == strides and math.prod(window) <= _FEW:
        return f"up to {_FEW} elements, side by side: no faster, and not fused with what is before"
    return max_pool(eqn, place)


def sum_pool(eqn: Eqn, place: Place) -> Callable | str:
    """Sums over a window as a reshape, or as a sum of shifted slices, axis by axis.

    2 x 2, 32 channels at 32 x 32 pixels, batch 128: 0.8 → 0.6 ms.
    """
    del place
    if why := _refused(eqn.params, eqn.invars[0].aval, eqn.outvars[0].aval):
        return why
    window, strides, padding = _window(eqn.params)
    return lambda x: _pool(x, window, strides, padding, lax.add, np.zeros((), x.dtype))


def max_pool_gradient(eqn: Eqn, place: Place) -> Callable | str:
    """Sends each window's gradient to its first maximum by comparing shifted slices.

    LeNet-5's first pooling, batch 128: 8.0 → 1.1 ms; 3 x 3 by 2, 64 channels at 32 x 32 pixels,
    batch 32: 20 → 3.7. Linear in the gradient, so that it can be transposed and differentiated
    again.
    """
    if eqn.params["select_prim"].name != "ge":
        return f"selects by {eqn.params['select_prim'].name}, not by ge"
    if why := _refused(eqn.params, eqn.invars[1].aval, eqn.invars[0].aval):
        return why
    window, strides, padding = _window(eqn.params)
    disjoint = all(w == s or w == 1 == s for w, s in zip(window, strides, strict=True))
    # a convolution's kernel and its bias both read the gradient: write it once, and not fused into
    # either; after an activation XLA fuses it into that one's derivative
    producer = place.producer(eqn.invars[1])
    shared = producer is not None and producer.primitive.name in ("add", "conv_general_dilated")

    def gradient(source, x):
        """Returns the gradient of x, given that of the pooled array."""
        padded = _padded(x, padding, _lowest(x.dtype))
        offsets = list(np.ndindex(*window))
        parts = [_slice(padded, o, source.shape, strides) for o in offsets]
        highest = reduce(jnp.maximum, parts)
        first = jnp.full(source.shape, len(parts) - 1, jnp.int8)  # tap of each window's maximum
        for i in reversed(range(len(parts) - 1)):
            first = jnp.where(parts[i] == highest, jnp.int8(i), first)
        # else each element of the result compares its whole window again
        first, source = lax.optimization_barrier((first, source))
        zero = jnp.zeros((), source.dtype)
        if disjoint:
            split = [n for d in source.shape for n in (d, 1)]
            taps = lax.iota(jnp.int8, len(parts))  # no array of NumPy's: a body holds no constants
            taps = taps.reshape([n for size in window for n in (1, size)])
            out = jnp.where(first.reshape(split) == taps, source.reshape(split), zero)
            out = out.reshape([d * w for d, w in zip(source.shape, window, strict=True)])
            out = lax.pad(
                out, zero, [(0, d - n, 0) for d, n in zip(padded.shape, out.shape, strict=True)]
            )
        else:
            shares = [jnp.where(first == i, source, zero) for i in range(len(parts))]
            placed = [
                _placed(s, o, padded.shape, strides) for s, o in zip(shares, offsets, strict=True)
            ]
            out = reduce(lax.add, placed)
        out = _cropped(out, padding, x.shape)
        return lax.optimization_barrier(out) if shared else out

    return gradient


def _refused(params: dict, aval: jax.core.ShapedArray, pooled: jax.core.ShapedArray) -> str:
    """Returns why the windows of an array cannot be taken apart, or ''."""
    if math.prod(params["window_dimensions"]) > _MOST:
        return f"a window of more than {_MOST} elements"
    if math.prod(params["window_dimensions"]) == 1:
        return "a window of one element"
    dilation = (*params.get("base_dilation", ()), *params.get("window_dilation", ()))
    if any(d != 1 for d in dilation):
        return "dilated"
    if not all(isinstance(d, int) for d in aval.shape):
        return "a symbolic size"
    if not all(pooled.shape):
        return "an empty array"
    if not jnp.issubdtype(aval.dtype, jnp.number):
        return f"{aval.dtype} elements"
    return ""


def _window(params: dict) -> tuple[tuple, tuple, tuple]:
    return params["window_dimensions"], params["window_strides"], params["padding"]


def _pool(x, window: Sequence[int], strides: Sequence[int], padding, op: Callable, start):
    """Returns the window reduction of x; op is associative and commutative."""
    x = _padded(x, padding, start)
    for axis, (size, stride) in enumerate(zip(window, strides, strict=True)):
        length = (x.shape[axis] - size) // stride + 1
        if size == 1 and stride == 1:
            continue
        take = partial(lax.slice_in_dim, x, stride=stride, axis=axis)
        x = reduce(op, [take(i, i + (length - 1) * stride + 1) for i in range(size)])
    return x


def _padded(x, padding, fill):
    if not any(low or high for low, high in padding):
        return x
    return lax.pad(x, jnp.asarray(fill, x.dtype), [(low, high, 0) for low, high in padding])


def _cropped(x, padding, shape: Sequence[int]):
    if not any(low or high for low, high in padding):
        return x
    start = [low for low, _ in padding]
    return lax.slice(x, start, [s + d for s, d in zip(start, shape, strict=True)])


def _slice(x, offset: Sequence[int], shape: Sequence[int], strides: Sequence[int]):
    """Returns element `offset` of every window."""
    stop = [o + (d - 1) * s + 1 for o, d, s in zip(offset, shape, strides, strict=True)]
    return lax.slice(x, offset, stop, strides)


def _placed(part, offset: Sequence[int], shape: Sequence[int], strides: Sequence[int]):
    """Returns zeros of `shape` with `part` where `_slice` took it from."""
    ends = [o + (d - 1) * s + 1 for o, d, s in zip(offset, part.shape, strides, strict=True)]
    config = [(o, d - e, s - 1) for o, d, e, s in zip(offset, shape, ends, strides, strict=True)]
    return lax.pad(part, jnp.zeros((), part.dtype), config)


def _lowest(dtype):
    if jnp.issubdtype(dtype, jnp.floating):
        lowest = np.array(-np.inf, dtype)
        # some formats of 8 bits have no infinity
        return lowest if np.isneginf(lowest.astype(np.float32)) else np.array(jnp.finfo(dtype).min)
    return np.array(jnp.iinfo(dtype).min, dtype)
