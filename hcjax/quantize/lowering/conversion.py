"""Puts a value of a quantized graph into the form that a reader asks for, by one op."""

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

_MOST_TERMS = 8


def int8_of(b: Builder, number: int, qparams: QParams | None = None) -> Int8:
    """Returns the int8 form of a value, quantizing it on first use.

    qparams: to quantize with; None: the value's own. A value that is int8 keeps its own.
    """
    if not b.forms[number].int8:
        qparams = b.qparams(number) if qparams is None else qparams
        b.forms[number].int8 = _narrowed(b, number, qparams)
    return b.forms[number].int8


def input_of(b: Builder, number: int, layer: str) -> Int8:
    """Returns a value as int8 for a layer, rounded again if the layer reads fewer bits."""
    q = int8_of(b, number)
    qparams = b.coarser(number, layer, q)
    return q if qparams is None else requantized(b, number, _as_wide(q), qparams)


def regridded(b: Builder, number: int, qparams: QParams) -> Int8:
    """Returns a value as int8 of another value's qparams."""
    if not b.forms[number].int8 and len(b.readers.get(number, ())) == 1:
        return int8_of(b, number, qparams)
    found = int8_of(b, number)
    if found.scale == qparams.scale:
        return found
    return requantized(b, number, accumulator_of(b, number), qparams)


def accumulator_of(b: Builder, number: int) -> Accumulator:
    """Returns a value as terms that more may be added to."""
    found = b.forms[number].accumulator
    alone = len(b.readers.get(number, ())) == 1 and not b.forms[number].int8
    if found is not None and alone and not found.clipped and len(found.terms) < _MOST_TERMS:
        return found
    return _as_wide(int8_of(b, number))


def lookup_of(b: Builder, number: int) -> Lookup:
    """Returns a value as elementwise ops behind an int8 one."""
    return b.forms[number].lookup or Lookup(number)


def float_of(b: Builder, number: int) -> int:
    """Returns the number of a value as a float array."""
    if b.forms[number].floating is None and _only_float(b, number):
        for op in b.forms[number].lookup.ops:
            if b.forms[op.output].floating is None:
                leave(b, op)
    if b.forms[number].floating is None:
        found = b.forms[number].accumulator
        if found is None or b.forms[number].int8 or not _plain(b, found):
            found = _as_wide(int8_of(b, number))
        b.forms[number].floating = _dequantized(b, number, found)
    return b.forms[number].floating


def leave(b: Builder, op: Op) -> None:
    """Leaves an op in float: its weights are rounded all the same, and dequantised as it runs."""
    inputs = [_constant(b, op, i) if i in b.known else float_of(b, i) for i in op.inputs]
    _keep(b, op, inputs)
    dtypes = [op.dtype, *(b.dtype.get(i, b.model.image_dtype) for i in b.read(op))]
    if not any(jnp.issubdtype(dtype, jnp.inexact) for dtype in dtypes):
        return  # arithmetic of indices: integers already
    shapes = ", ".join(str(tuple(s.r or "N" for s in b.shape[i])) for i in b.read(op))
    b.left.append(f"{op.kind} {shapes} at {op.source or 'an unknown line'}")


def _keep(b: Builder, op: Op, inputs: list[int]) -> None:
    dtypes = [b.dtype.get(i) if i not in b.known else b.known[i].dtype for i in op.inputs]

    def compute(batch, *values):
        same = [v if d is None else v.astype(d) for v, d in zip(values, dtypes, strict=True)]
        return op.run(batch, *same)

    b.keep(op, tuple(inputs), compute)


def _constant(b: Builder, op: Op, number: int) -> int:
    """Returns the number of what an op in float reads besides images."""
    if number in b.stretched:
        if (
            b.forms[number].floating is None
        ):  # known for a batch of one only: computed again for any
            made = b.stretched[number]
            _keep(b, made, [_constant(b, made, i) for i in made.inputs])
        return b.forms[number].floating
    value = b.known[number]
    weight = number in b.trained and jnp.issubdtype(value.dtype, jnp.floating)
    if np.ndim(value) < 2 or not (weight or op.kind in LAYERS):
        return b.operand(number, f"{op.kind}/value")
    whole, steps, _, _ = b.kernel(op, number)
    run = partial(_spread, b.along(b.channels(op), np.ndim(value)))
    return b.emit("dequantize_kernel", (whole, steps), run)


def alike(b: Builder, op: Op, number: int, qparams: QParams) -> Int8 | None:
    """Returns what every image has the same of, as int8 of a qparams; None if nothing says so."""
    made = b.stretched.get(number)
    if made is None or any(s.q and s != (1, 0) for s in made.shape):
        return None
    value = b.operand(number, f"{b.layer(op, number)}/value")
    q = quantized(b, value, qparams)
    return qparams.of(repeated(b, made, q))


def quantized(b: Builder, number: int, qparams: QParams, **about: Any) -> int:
    """Returns the number of an array of the new graph in integers."""
    return b.emit("quantize", (number, qparams.scale), _rounded(qparams), **about)


def repeated(b: Builder, op: Op, number: int) -> int:
    """Returns a number of the new graph repeated to the shape of an op, whose axes it has."""
    about = {"shape": plain(op.shape), "broadcast_dimensions": tuple(range(len(op.shape)))}
    run = computes("broadcast_in_dim", about)
    return b.emit("broadcast_in_dim", (number,), run, of=op.output, source=op.source, **about)


def _spread(along: list[int], batch: int, whole: jax.Array, steps: jax.Array) -> jax.Array:
    return whole * steps.reshape(along)


def logits(b: Builder) -> int:
    """Returns the number of the network's result, float32."""
    number = b.model.graph.logits
    found = b.forms[number].accumulator
    if found is not None and not b.forms[number].int8 and not _plain(b, found):
        b.forms[number].int8 = requantized(b, number, found, b.qparams(number, wide=True))
    return float_of(b, number)


def requantized(b: Builder, number: int, wide: Accumulator, qparams: QParams) -> Int8:
    """Returns a sum of accumulators as int8."""
    count, bounds = len(wide.terms), tuple(t.bound for t in wide.terms)
    try:
        fixed_point.pre_shift(max(bounds))
    except ValueError as error:
        raise ValueError(f"{b.label_of(number)}: {error}") from None
    least = max(qparams.qmin, 0) if wide.low >= 0 else qparams.qmin

    def compute(batch, *values):
        terms, smooth, scales = values[:count], values[count : 2 * count], values[2 * count :]
        step, offset = values[-1], values[-2] if wide.offset is not None else None
        scales = scales[:count]
        fixed = fixed_point.multipliers(scales, bounds, offset, step)
        low, high = fixed_point.clips(wide.low, wide.high, least, qparams.qmax, step)
        whole = [t.astype(jnp.int32) for t in terms]
        q = fixed_point.requantize(whole, bounds, fixed, low, high).astype(jnp.float32)
        real = sum(t * s for t, s in zip(smooth, scales, strict=True))
        real = real if offset is None else real + offset
        real = jax.nn.relu(real) if wide.low == 0 else real  # whose gradient at 0 is 0
        return straight_through.ste(q, straight_through.clipped(real / step, low, high))

    inputs = [t.number for t in wide.terms] + [t.smooth for t in wide.terms]
    inputs += [t.scale for t in wide.terms]
    inputs += [] if wide.offset is None else [wide.offset]
    about = {
        "bounds": bounds,
        "least": least,
        "most": qparams.qmax,
        "offset": wide.offset is not None,
    }
    about |= {"low": wide.low, "high": wide.high, "label": b.label_of(number)}
    new = b.emit("requantize", (*inputs, qparams.scale), compute, of=number, **about)
    return Int8(new, qparams.scale, least, qparams.qmax)


def _narrowed(b: Builder, number: int, qparams: QParams) -> Int8:
    if b.forms[number].accumulator:
        return requantized(b, number, b.forms[number].accumulator, qparams)
    if b.forms[number].lookup and lookup.holds(b, number, found := b.forms[number].lookup):
        return lookup.looked_up(b, number, found, int8_of(b, found.origin), qparams)

    about = {"least": qparams.qmin, "most": qparams.qmax, "label": b.label_of(number)}
    inputs = (float_of(b, number), qparams.scale)
    return qparams.of(b.emit("quantize", inputs, _rounded(qparams), of=number, **about))


def _rounded(qparams: QParams) -> Callable:
    def compute(batch, x, step):
        smooth = straight_through.clipped(x.astype(jnp.float32) / step, qparams.qmin, qparams.qmax)
        return straight_through.ste(
            fixed_point.quantize(x, step, qparams.qmin, qparams.qmax), smooth
        )

    return compute


def _as_wide(q: Int8) -> Accumulator:
    return Accumulator((Term(q.number, q.number, q.scale, q.bound),))


def _plain(b: Builder, wide: Accumulator) -> bool:
    """Returns whether a sum is one accumulator times one scale, or one scale per channel."""
    one = len(wide.terms) == 1 and not wide.clipped and not wide.empty
    return one and b.axis(wide.terms[0].scale) is not None


def _only_float(b: Builder, number: int) -> bool:
    """Returns whether a value is a function that no table can hold."""
    if not b.forms[number].lookup or b.forms[number].int8 or b.forms[number].accumulator:
        return False
    return not lookup.holds(b, number, b.forms[number].lookup)


def _dequantized(b: Builder, number: int, wide: Accumulator) -> int:
    """Returns the number of one accumulator as float32: (acc + round(offset / scale)) · scale."""
    (term,) = wide.terms
    axis = b.axis(term.scale)
    has_offset = wide.offset is not None

    def compute(batch, acc, smooth, scale, *offset):
        whole = acc.astype(jnp.int32)
        real = smooth * scale
        if has_offset:
            whole = whole + fixed_point.whole(fixed_point.over(offset[0], scale))
            real = real + offset[0]
        return straight_through.ste(whole.astype(jnp.float32) * scale, real)

    inputs = (term.number, term.smooth, term.scale)
    inputs += (wide.offset,) if has_offset else ()
    about = {"axis": axis, "offset": has_offset, "label": b.label_of(number), "bound": term.bound}
    return b.emit("dequantize", inputs, compute, of=number, **about)
