"""What a zero point adds to layers, sums and padding.

A layer or a sum of scale · (q - zero) computes on q alone: zero · scale · sum(kernel), or zero ·
scale times how many numbers are added, goes into the offset. Padding pads with the zero point.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.model import Op, Size
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.table import computes
from hcjax.quantize import straight_through
from hcjax.quantize.lowering import lookup
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.lowering.forms import Int8


def layer_offset(b: Builder, zero: int, numbers: tuple, axis: int, along: list[int]) -> int:
    """Emits the offset of a layer whose input has a zero point: own - zero · scale · sum(kernel).

    The sum is that of the integers, so that scale · (q - zero) is what the layer reads. Where no
    integer represents 0, zero · scale is the middle of the input and large beside q: an error of
    the kernel times that would drown the result, and the sum is that of the weights themselves, to
    2^-16 of a step.

    numbers: of the quantized kernel, its scales, the scales of the sums, the weights (None for the
    sum of the integers), the layer's own offset or None. axis: of the kernel's output channels.
    along: shape that broadcasts to the layer's result.
    """
    kernel, scales, scale, weights, own = numbers
    inputs = tuple(n for n in (kernel, scale, own) if n is not None)
    inputs += () if weights is None else (weights, scales)

    def compute(batch, q, s, *more):
        others = tuple(a for a in range(q.ndim) if a != axis)
        total = straight_through.ste(_whole_sum(q, others), q.sum(others))
        if weights is not None:
            w, step = more[-2:]
            step = step.reshape(b.scale_shape(axis, q.ndim))
            left = fixed_point.apart(fixed_point.over(w.astype(jnp.float32), step)) - q
            fine = _whole_sum(jnp.round(left * 2.0**16), others) / 2.0**16
            total = straight_through.ste(total + fine, (w / step).sum(others))
        total = fixed_point.apart(s * (-zero * total).reshape(along))
        return total if own is None else total + more[0]

    return b.emit("offset", inputs, compute)


def _whole_sum(q: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    """Returns the sum of whole numbers, which is the same in any order, as float32."""
    return q.astype(jnp.int32).sum(axes).astype(jnp.float32)


def counts(b: Builder, op: Op, number: int) -> np.ndarray | None:
    """Returns how many numbers each sum adds; None if that depends on the batch.

    An array of size 1 along every axis on which it is constant; padding is not counted.
    """
    shape = tuple(size.q + size.r for size in b.shape[number])
    found = lookup.collapse(np.asarray(op.run_one(1, jnp.ones(shape, jnp.float32))), len(op.shape))
    depends = any(size.q and n > 1 for size, n in zip(op.shape, found.shape, strict=True))
    return None if depends else found


def padded(b: Builder, op: Op, number: int, q: Int8) -> tuple[Op, Int8] | None:
    """Returns a convolution without padding, and its operand padded with the zero point.

    The convolution's own padding, and the zeros between its input's pixels, would be integers 0,
    which stand for scale · (0 - zero). None if a padded size depends on the batch, or no int8
    represents 0.

    op: the convolution. number: of its operand in the original graph. q: its int8 form.
    """
    spatial, rank = op.params["dimension_numbers"].lhs_spec[2:], len(b.shape[number])
    pads = zip(op.params["padding"], op.params["lhs_dilation"], strict=True)
    config = [(0, 0, 0)] * rank
    for axis, ((low, high), dilation) in zip(spatial, pads, strict=True):
        config[axis] = (low, high, dilation - 1)
    if not any(map(any, config)):
        return op, q
    if not -128 <= q.zero <= 127:
        return None
    sizes = list(b.shape[number])
    for axis, (low, high, between) in enumerate(config):
        if (low or high or between) and sizes[axis].q:
            return None
        if low or high or between:
            size = sizes[axis].r
            sizes[axis] = Size(0, size + low + high + max(size - 1, 0) * between)
    ones = (1,) * len(spatial)
    plain_params = op.params | {"padding": tuple((0, 0) for _ in spatial), "lhs_dilation": ones}
    new = _pad(b, q, tuple(config), shape=tuple(sizes), source=op.source)
    return op._replace(params=plain_params), new


def _pad(b: Builder, q: Int8, config: tuple, **fields: Any) -> Int8:
    """Pads an int8 array with its zero point."""
    run = computes("pad", {"padding_config": config})
    zero = b.add_new_constant(np.float32(q.zero))
    number = b.emit("pad", (q.number, zero), run, padding_config=config, **fields)
    return q._replace(number=number)


def pad(b: Builder, op: Op, q: Int8) -> Int8 | None:
    """Returns the int8 form of a pad op with zeros; None if no int8 represents 0."""
    if not -128 <= q.zero <= 127:
        return None
    return _pad(b, q, op.params["padding_config"], of=op.output, source=op.source)
