"""Rules for the two convolutions that `jax.grad` makes of one: kernel and image gradient."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import reduce

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.accelerate.rules.canonical import (
    Conv,
    conv,
    dot,
    kernel_result,
    layer_behind,
    refused,
    rows,
    shifted,
)
from hcjax.core.walker import Eqn, Place, bind

_PART_BYTES = 2**19  # of dy in a part of the batch, for it to stay in the second-level cache
_LEAST_PART = 16  # images of a part: the width of a vector
_MOST_PARTS = 8
_FEW_COLUMNS = 25  # taps · channels; beyond, im2col moves more bytes than it saves
_MOST_PHASES = 64  # of a dilated image; each is a convolution to compile
_COLUMN_PARTS = 4  # of the batch: a product so long and thin is not split over threads on its own


def kernel_gradient_pointwise(eqn: Eqn, place: Place) -> Callable | str:
    """Computes the kernel gradient of a layer with one tap as one matmul over all pixels.

    128 → 128 channels at 16 x 16 pixels, batch 32: 12 → 3.5 ms, with oneDNN 2.4 → 1.3.
    """
    del place
    c = conv(eqn)
    if why := _not_kernel_gradient(c):
        return why
    if c.pixels > 1:
        return f"{c.pixels} taps"
    return lambda x, dy: _pointwise_gradient(c, x, dy)


def kernel_gradient_columns(eqn: Eqn, place: Place) -> Callable | str:
    """Computes the kernel gradient of a layer with few input channels as one matmul on columns.

    LeNet-5's first layer, batch 128: 5.4 → 3.3 ms, with oneDNN 5.9 → 3.3.
    """
    del place
    c = conv(eqn)
    if why := _not_kernel_gradient(c):
        return why
    if c.image[0] * c.pixels > _FEW_COLUMNS:
        return f"{c.image[0] * c.pixels} columns; at most {_FEW_COLUMNS} pay"
    return lambda x, dy: _columns_gradient(c, x, dy)


def kernel_gradient_barred(eqn: Eqn, place: Place) -> Callable | str:
    """Computes a kernel gradient from operands behind an optimization barrier.

    Without the barrier XLA fuses everything before the operands (normalisation, relu, residual
    sums of several blocks) into the transposes that the kernel gradient needs, and computes it
    again there. Behind a norm and relu, 16 channels at 32 x 32 pixels, batch 128: 26 → 23 ms; in a
    loop 362 → 12.
    """
    c = conv(eqn)
    if why := _not_kernel_gradient(c):
        return why
    return c.barred if place.loop else lambda x, dy: bind(eqn, lax.optimization_barrier([x, dy]))[0]


def kernel_gradient_flat(eqn: Eqn, place: Place) -> Callable | str:
    """Computes a kernel gradient as a convolution of one image, whose rows are pixels by channels.

    The batch lies in the channels, where a matrix product sums it up, part by part of the batch,
    for a part's operands to stay in cache. With rows that long oneDNN's kernels reach 60 to 100 %
    of the peak, and the result is the kernel as it stands. Behind a norm and relu, 16 channels at
    32 x 32 pixels, batch 128, with oneDNN: 31 → 15 ms.
    """
    del place
    c = conv(eqn)
    if why := _not_kernel_gradient(c):
        return why
    if c.strides[-1] != 1:
        return "the layer's kernel is dilated"
    return lambda x, dy: _flat_gradient(c, x, dy)


def input_gradient_phases(eqn: Eqn, place: Place) -> Callable | str:
    """Computes a strided layer's input gradient, or a transposed convolution, phase by phase.

    A dilated image is mostly zeros, and misses XLA's fast kernels; each phase of the result is a
    convolution of the plain image with every s-th tap, and the phases are interleaved. ResNet-20's
    16 ← 32 channels by 2, batch 128: 4.9 → 3.2 ms; 21 channels up by 8: 122 → 20.
    """
    del place
    c = conv(eqn)
    if c.symbolic:
        return "a symbolic size"
    ones = (1,) * len(c.strides)
    if c.image_dilation == ones:
        return "the image is not dilated"
    if c.strides != ones or c.kernel_dilation != ones:
        return "strided or kernel-dilated as well"
    if c.batch_groups != 1:
        return "batch groups"
    if not all(c.out) or not all(c.image):
        return "an empty array"
    if math.prod(c.image_dilation) > _MOST_PHASES:
        return f"{math.prod(c.image_dilation)} phases; up to {_MOST_PHASES} pay"
    return lambda dy, k: _phases(c, dy, k)


def _not_kernel_gradient(c: Conv) -> str:
    if c.symbolic:
        return "a symbolic size"
    if not c.is_kernel_gradient:
        return "not a kernel gradient"
    return refused(c)


def _flat_gradient(c: Conv, x: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns dK[a, b, i, o] = Σ_nhw x[h s + a, (w s + b) I + i, n] dy[h, w, n, o].

    Output pixel (a, b I + i) of a convolution with N input channels and a kernel of the size of dy.
    """
    layer, x, dy = layer_behind(c, *lax.optimization_barrier((x, dy)))
    batch, *outer, width, channels = x.shape
    parts = _parts(batch, dy.size * dy.dtype.itemsize)
    size = batch // parts
    images = lax.transpose(x.reshape(parts, size, -1), (0, 2, 1))
    images = images.reshape(parts, *outer, width * channels, size)
    kernels = dy.reshape(parts, size, *dy.shape[1:])
    kernels = lax.transpose(kernels, (0, *range(2, dy.ndim), 1, dy.ndim))
    low, high = c.padding[-1]
    changes = {
        "padding": [*c.padding[:-1], (low * channels, high * channels)],
        "rhs_dilation": (*c.kernel_dilation[:-1], c.kernel_dilation[-1] * channels),
    }
    sums = [c.run(images[i : i + 1], kernels[i], **changes) for i in range(parts)]
    return kernel_result(c, reduce(lax.add, sums).reshape(layer.kernel))


def _pointwise_gradient(c: Conv, x: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns dK[i, o] = Σ_nhw x[n, h s, w s, i] dy[n, h, w, o]."""
    layer, x, dy = layer_behind(c, *lax.optimization_barrier((x, dy)))
    (x,) = shifted(x, layer)
    k = dot(c, x.reshape(-1, x.shape[-1]), dy.reshape(-1, dy.shape[-1]), ((0,), (0,)))
    return kernel_result(c, k.reshape(layer.kernel))


def _parts(batch: int, size: int) -> int:
    """Returns into how many parts a batch goes whose dy has `size` bytes: 1, 2, 4 or 8."""
    parts = 1
    while size > parts * _PART_BYTES and parts < _MOST_PARTS:
        if batch % (2 * parts) or batch // (2 * parts) < _LEAST_PART:
            break
        parts *= 2
    return parts


def _columns_gradient(c: Conv, x: jax.Array, dy: jax.Array) -> jax.Array:
    """Returns a kernel gradient as columns transposed times a matrix, summed over batch parts."""
    layer, x, dy = layer_behind(c, x, dy)
    parts = math.gcd(len(x), _COLUMN_PARTS)
    gradients = dy.reshape(parts, -1, dy.shape[-1])
    k = dot(c, rows(x, layer, parts), gradients, ((2,), (1,)), ((0,), (0,)))
    return kernel_result(c, k.sum(0).reshape(layer.kernel))


def _phases(c: Conv, dy: jax.Array, k: jax.Array) -> jax.Array:
    """Returns a convolution of a dilated image as one convolution per phase, interleaved.

    With dilation s and lower padding l, out[i] = Σ_a u[i + a - l] k[a], where u[j s] = dy[j] and 0
    elsewhere: of phase p = i mod s only the taps a with p + a - l divisible by s count.
    """
    x, k = c.inputs(lax.optimization_barrier(dy), k)
    spatial = range(len(c.strides))
    steps = c.image_dilation
    longest = tuple(-(-c.out[1 + i] // steps[i]) for i in spatial)
    parts = []
    for phase in itertools.product(*map(range, steps)):
        taps, padding = [], []
        for i in spatial:
            (low, _), step, size = c.padding[i], steps[i], c.kernel[i]
            first = (low - phase[i]) % step
            count = len(range(first, size, step))
            start = (phase[i] + first - low) // step  # of the image, for the phase's first pixel
            taps.append(slice(first, None, step))
            padding.append((-start, longest[i] - 1 + start + count - 1 - (c.image[1 + i] - 1)))
        part = k[tuple(taps)]
        shape = (c.out[0], *longest, c.out[-1])
        if 0 in part.shape:
            parts.append(jnp.zeros(shape, c.options["preferred_element_type"] or x.dtype))
        else:
            ones = (1,) * len(steps)
            parts.append(c.run(x, part, lhs_dilation=ones, padding=padding))
    y = _interleaved(parts, steps)
    y = lax.slice(y, (0,) * y.ndim, c.out)
    return c.result(y)


def _interleaved(parts: list[jax.Array], steps: tuple[int, ...]) -> jax.Array:
    """Returns the array whose phases, in order, are these.

    Each pixel selects among the parts: XLA vectorises that, and not a concatenation.
    """
    batch, *sizes, channels = parts[0].shape
    axes = range(1, 1 + len(steps))
    split = (batch, *(n for pair in zip(sizes, steps, strict=True) for n in pair), channels)
    places = (0, *(2 * axis - 1 for axis in axes), len(split) - 1)
    spread = [lax.broadcast_in_dim(part, split, places) for part in parts]
    which = lax.full(split, 0, np.int32)
    for axis in axes:
        which = which * steps[axis - 1] + lax.broadcasted_iota(np.int32, split, 2 * axis)
    y = spread[0] if len(parts) == 1 else lax.select_n(which, *spread)
    return y.reshape(batch, *(n * s for n, s in zip(sizes, steps, strict=True)), channels)
