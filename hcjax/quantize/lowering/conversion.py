"""Conversions between the forms of a value: each adds one op, on first use."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.model import LAYERS, Op, plain
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.table import computes
from hcjax.quantize import straight_through
from hcjax.quantize.lowering import lookup
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.lowering.forms import Accumulator, Int8, Lookup, QParams, Term

_MAX_TERMS = 8


def int8_of(b: Builder, number: int, qparams: QParams | None = None) -> Int8:
    """Returns the int8 form of a value, quantizing it on first use.

    qparams: to quantize with; None for those of the value. An existing int8 form is kept.
    """
    if not b.forms[number].int8:
        qparams = b.qparams(number) if qparams is None else qparams
        b.forms[number].int8 = _to_int8(b, number, qparams)
    return b.forms[number].int8


def input_of(b: Builder, number: int, layer: str) -> Int8:
    """Returns the int8 form that a layer reads, requantized if the layer reads fewer bits."""
    q = int8_of(b, number)
    qparams = b.input_qparams(number, layer, q)
    return q if qparams is None else requantize(b, number, _as_accumulator(b, q), qparams)


def symmetric_of(b: Builder, number: int) -> Int8:
    """Returns an int8 form without a zero point, for a product with another activation."""
    q = int8_of(b, number)
    if not q.zero:
        return q
    if b.forms[number].symmetric is None:
        qparams = b.qparams_of(f"{b.label_of(number)}/step", number, b.symmetric(number))
        b.forms[number].symmetric = requantize(b, number, _as_accumulator(b, q), qparams)
    return b.forms[number].symmetric


def int8_with(b: Builder, number: int, qparams: QParams) -> Int8:
    """Returns the int8 form of a value with the QParams of another value."""
    if not b.forms[number].int8 and len(b.consumers.get(number, ())) == 1:
        return int8_of(b, number, qparams)
    q = int8_of(b, number)
    if q.scale == qparams.scale:
        return q
    return requantize(b, number, accumulator_of(b, number), qparams)


def accumulator_of(b: Builder, number: int) -> Accumulator:
    """Returns the accumulator form of a value, to which terms can be added."""
    acc = b.forms[number].accumulator
    alone = len(b.consumers.get(number, ())) == 1 and not b.forms[number].int8
    if acc is not None and alone and not acc.clipped and len(acc.terms) < _MAX_TERMS:
        return acc
    return _as_accumulator(b, int8_of(b, number))


def lookup_of(b: Builder, number: int) -> Lookup:
    """Returns a value as elementwise ops behind an int8 value."""
    return b.forms[number].lookup or Lookup(number)


def float_of(b: Builder, number: int) -> int:
    """Returns the number of the float form of a value, dequantizing it on first use."""
    if b.forms[number].floating is None and _fits_no_form(b, number):
        for op in b.forms[number].lookup.ops:
            if b.forms[op.output].floating is None:
                leave_in_float(b, op)
    if b.forms[number].floating is None:
        acc = b.forms[number].accumulator
        if acc is None or b.forms[number].int8 or not _is_scaled_term(b, acc):
            acc = _as_accumulator(b, int8_of(b, number))
        b.forms[number].floating = _dequantize(b, number, acc)
    return b.forms[number].floating


def leave_in_float(b: Builder, op: Op) -> None:
    """Adds an op in float and lists it; its weights are quantized, and dequantized when it runs."""
    _add_float(b, op, _float_operands(b, op))
    dtypes = [op.dtype, *(b.dtype[i] for i in b.activations(op))]
    if not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        return  # arithmetic of indices: integers already
    shapes = ", ".join(str(tuple(s.r or "N" for s in b.shape[i])) for i in b.activations(op))
    b.floats.append(f"{op.kind} {shapes} at {op.source or 'an unknown line'}")


def join_in_float(b: Builder, op: Op) -> None:
    """Adds an op that joins values, each from its own integers."""
    _add_float(b, op, _float_operands(b, op))


def _float_operands(b: Builder, op: Op) -> list[int]:
    return [_constant(b, op, i) if i in b.constants else float_of(b, i) for i in op.inputs]


def _add_float(b: Builder, op: Op, inputs: list[int]) -> None:
    dtypes = [b.dtype.get(i) if i not in b.constants else b.constants[i].dtype for i in op.inputs]

    def compute(batch, *values):
        same = [v if d is None else v.astype(d) for v, d in zip(values, dtypes, strict=True)]
        return op.run(batch, *same)

    b.add_float(op, tuple(inputs), compute)


def _constant(b: Builder, op: Op, number: int) -> int:
    """Returns the number of a constant operand of an op in float."""
    if number in b.batch_shaped:
        # its value is of a batch of one: compute it again for any batch
        if b.forms[number].floating is None:
            producer = b.batch_shaped[number]
            _add_float(b, producer, [_constant(b, producer, i) for i in producer.inputs])
        return b.forms[number].floating
    value = b.constants[number]
    weight = number in b.trained and jnp.issubdtype(value.dtype, jnp.floating)
    if np.ndim(value) < 2 or not (weight or op.kind in LAYERS):
        return b.operand(number, f"{op.kind}/value")
    quantized, scales, _, _ = b.kernel(op, number)
    place = ("dequantized", quantized, scales)
    if place not in b.copies:
        run = partial(_dequantize_kernel, b.scale_shape(b.channels(op), np.ndim(value)))
        b.copies[place] = b.emit("dequantize_kernel", (quantized, scales), run)
    return b.copies[place]


def broadcast_int8(b: Builder, op: Op, number: int, qparams: QParams) -> Int8 | None:
    """Returns a batch-shaped constant as int8; None if it may differ between images."""
    producer = b.batch_shaped.get(number)
    if producer is None or any(s.q and s != (1, 0) for s in producer.shape):
        return None
    value = b.operand(number, f"{b.layer(op, number)}/value")
    q = quantize(b, value, qparams)
    return qparams.of(broadcast(b, producer, q))


def quantize(b: Builder, number: int, qparams: QParams, **params: Any) -> int:
    """Quantizes an array of the new graph and returns the number of the result."""
    params |= {"least": qparams.qmin, "most": qparams.qmax, "zero": qparams.zero}
    return b.emit("quantize", (number, qparams.scale), _rounding(qparams), **params)


def broadcast(b: Builder, op: Op, number: int) -> int:
    """Broadcasts an array of the new graph to the shape of an op of equal rank."""
    params = {"shape": plain(op.shape), "broadcast_dimensions": tuple(range(len(op.shape)))}
    run = computes("broadcast_in_dim", params)
    return b.emit("broadcast_in_dim", (number,), run, of=op.output, source=op.source, **params)


def _dequantize_kernel(
    shape: list[int], batch: int, kernel: jax.Array, scales: jax.Array
) -> jax.Array:
    return kernel * scales.reshape(shape)


def output_of(b: Builder, number: int) -> int:
    """Returns the number of an output: float32, or the integers that an op in float gives."""
    if number in b.batch_shaped:
        return _constant(b, b.batch_shaped[number], number)
    if number in b.constants:
        return b.operand(number, f"{b.outputs[number]}/value")
    acc = b.forms[number].accumulator
    if acc is not None and not b.forms[number].int8 and not _is_scaled_term(b, acc):
        b.forms[number].int8 = requantize(b, number, acc, b.qparams(number, int16=True))
    return float_of(b, number)


def requantize(b: Builder, number: int, acc: Accumulator, qparams: QParams) -> Int8:
    """Requantizes a sum of accumulators to int8."""
    count, bounds = len(acc.terms), tuple(t.bound for t in acc.terms)
    try:
        fixed_point.pre_shift(max(bounds))
    except ValueError as error:
        raise ValueError(f"{b.label_of(number)}: {error}") from None
    zero, most = qparams.zero, qparams.qmax
    qmin = min(max(qparams.qmin, zero), most) if acc.low >= 0 else qparams.qmin

    def compute(batch, *values):
        terms, smooth, scales = values[:count], values[count : 2 * count], values[2 * count :]
        scale, offset = values[-1], values[-2] if acc.offset is not None else None
        scales = scales[:count]
        fixed = fixed_point.multipliers(scales, bounds, offset, scale, zero)
        low, high = fixed_point.clips(acc.low, acc.high, qmin, most, scale, zero)
        integers = [t.astype(jnp.int32) for t in terms]
        q = fixed_point.requantize(integers, bounds, fixed, low, high).astype(jnp.float32)
        real = sum(t * s for t, s in zip(smooth, scales, strict=True))
        real = real if offset is None else real + offset
        real = jax.nn.relu(real) if acc.low == 0 else real  # its gradient at 0 is 0
        real = real / scale + zero if zero else real / scale
        return straight_through.ste(q, straight_through.clip(real, low, high))

    inputs = [t.number for t in acc.terms] + [t.smooth for t in acc.terms]
    inputs += [t.scale for t in acc.terms]
    inputs += [] if acc.offset is None else [acc.offset]
    params = {"bounds": bounds, "least": qmin, "most": most, "zero": zero}
    params |= {"offset": acc.offset is not None}
    params |= {"low": acc.low, "high": acc.high, "label": b.label_of(number)}
    new = b.emit("requantize", (*inputs, qparams.scale), compute, of=number, **params)
    return qparams._replace(qmin=qmin).of(new)


def _to_int8(b: Builder, number: int, qparams: QParams) -> Int8:
    if b.forms[number].accumulator:
        return requantize(b, number, b.forms[number].accumulator, qparams)
    if b.forms[number].lookup and lookup.fits_table(b, number, functions := b.forms[number].lookup):
        origin = int8_of(b, functions.origin)
        return lookup.look_up(b, number, functions, origin, qparams)

    new = quantize(b, float_of(b, number), qparams, of=number, label=b.label_of(number))
    return qparams.of(new)


def _rounding(qparams: QParams) -> Callable:
    qmin, qmax, zero = qparams.qmin, qparams.qmax, qparams.zero

    def compute(batch, x, scale):
        smooth = x.astype(jnp.float32) / scale
        smooth = straight_through.clip(smooth + zero if zero else smooth, qmin, qmax)
        return straight_through.ste(fixed_point.quantize(x, scale, qmin, qmax, zero), smooth)

    return compute


def _as_accumulator(b: Builder, q: Int8) -> Accumulator:
    offset = b.zero_offset(q.scale, q.zero) if q.zero else None
    return Accumulator((Term(q.number, q.number, q.scale, q.bound),), offset)


def _is_scaled_term(b: Builder, acc: Accumulator) -> bool:
    """Returns whether a sum is one accumulator times one scale, or times one per channel.

    Its offset is then counted in that scale, and must be an integer that float32 holds.
    """
    single = len(acc.terms) == 1 and not acc.clipped and not acc.empty
    if not single or b.axis(acc.terms[0].scale) is None:
        return False
    if acc.offset is None:
        return True
    offset, scale = b.value(acc.offset), b.value(acc.terms[0].scale)
    return bool((np.abs(offset) < 2.0**24 * np.abs(scale)).all())


def _fits_no_form(b: Builder, number: int) -> bool:
    """Returns whether a value is only a function that no look-up table can hold."""
    if not b.forms[number].lookup or b.forms[number].int8 or b.forms[number].accumulator:
        return False
    return not lookup.fits_table(b, number, b.forms[number].lookup)


def _dequantize(b: Builder, number: int, acc: Accumulator) -> int:
    """Dequantizes one accumulator to float32: (acc + round(offset / scale)) · scale."""
    (term,) = acc.terms
    axis = b.axis(term.scale)
    has_offset = acc.offset is not None

    def compute(batch, term, smooth, scale, *offset):
        total = term.astype(jnp.int32)
        real = smooth * scale
        if has_offset:
            total = total + fixed_point.whole(fixed_point.over(offset[0], scale))
            real = real + offset[0]
        return straight_through.ste(total.astype(jnp.float32) * scale, real)

    inputs = (term.number, term.smooth, term.scale)
    inputs += (acc.offset,) if has_offset else ()
    params = {"axis": axis, "offset": has_offset, "label": b.label_of(number), "bound": term.bound}
    return b.emit("dequantize", inputs, compute, of=number, **params)
