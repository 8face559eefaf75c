"""The integer program bit for bit: products of int8 in int32, and rounding in float64.

Fixed-point rounding multiplies an int32 by an int32 and keeps whole parts. A float64 holds whole
numbers up to 2^53 exactly, and its products by powers of 2. Where |sum| · |multiplier| stays below
that, by the sums of the kernel itself, one product does; elsewhere the multiplier is split in two.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hcjax.export.onnx import elementwise, layers
from hcjax.export.onnx.elementwise import in_rows, rows_of
from hcjax.export.onnx.writer import Writer
from hcjax.graph.model import LAYERS, Op
from hcjax.graph.ops.fixed_point import pre_shift

_EXACT = 2**53  # whole numbers below it are float64
_HALF = 15  # bits of a multiplier's lower part
STEPS = 128  # of an int8, at most
ROUNDED = ("quantize", "requantize", "dequantize")  # kinds that only a network in integers has


def convolution(w: Writer, op: Op) -> None:
    """Writes a ConvInteger of int8; other convolutions as in float."""
    if w.dtype(op.inputs[0]) != np.int8:
        layers.convolution(w, op)
        return
    kernel = op.inputs[1]
    numbers = op.params["dimension_numbers"]
    name, attributes = layers.spread(w, op, w.const(0, np.int8))
    name = w.node("ConvInteger", [name, w.get(kernel, numbers.rhs_spec)], **attributes)
    w.put(op.output, name, numbers.out_spec)


def dense(w: Writer, op: Op) -> None:
    """Writes a MatMulInteger, or an Einsum in int32 for products of other axes."""
    x, y = op.inputs[:2]
    if w.dtype(x) != np.int8:
        layers.dense(w, op)
    elif layers.is_matrix(w, op):
        names = [layers.rows(w, x), layers.kernel_rows(w, x, y)]
        w.put(op.output, w.node("MatMulInteger", names))
    else:
        wide = [w.cast(w.get(i), np.int32) for i in (x, y)]
        w.put(op.output, layers.product(w, op, *wide))


def quantize(w: Writer, op: Op) -> None:
    """Writes round(x · (1 / scale)) + zero, clipped: float32 as hcjax computes it."""
    x, scale = op.inputs
    form, params = np.float32, op.params
    names, lay = aligned(w, op, [x])
    name = names[0] if w.dtype(x) == form else w.cast(names[0], form)
    inverse = form(1) / np.asarray(w.constant(scale), form)
    name = w.node("Round", [w.node("Mul", [name, w.const(lay(inverse))])])
    if params.get("zero", 0):
        name = w.node("Add", [name, w.const(params["zero"], form)])
    name = w.node("Clip", [name, w.const(params["least"], form), w.const(params["most"], form)])
    _put(w, op, [x], w.cast(name, np.int8))


def requantize(w: Writer, op: Op) -> None:
    """Writes clip((sum of floor(term · 2^pre · multiplier / 2^32) + offset) >> shift)."""
    bounds, count = op.params["bounds"], len(op.params["bounds"])
    terms, constants = op.inputs[:count], [w.constant(i) for i in op.inputs[count:]]
    *multipliers, offset, shift = constants
    names, lay = aligned(w, op, terms)

    def f64(value: np.ndarray) -> str:
        return w.const(lay(np.asarray(value, np.float64)))

    total = f64(offset)
    for term, name, bound, m in zip(terms, names, bounds, multipliers, strict=True):
        name = w.cast(name, np.float64)
        total = w.node("Add", [total, _high(w, name, np.asarray(m, np.int64), bound,
                                            min(bound, largest(w, term)), f64)])  # fmt: skip
    name = w.node("Floor", [w.node("Mul", [total, f64(2.0 ** -np.asarray(shift, np.float64))])])
    least, most = (np.asarray(op.params[k], np.float64) for k in ("least", "most"))
    name = w.node("Clip", [name, w.const(least), w.const(most)])
    _put(w, op, terms, w.cast(name, w.dtype(op.output)))


def _high(w: Writer, x: str, m: np.ndarray, bound: int, reach: int, f64: Callable) -> str:
    """Adds floor(x · 2^pre · m / 2^32), exact for |x| <= reach <= bound."""
    power = 2.0 ** (pre_shift(bound) - 32)
    if reach * int(np.abs(m).max(initial=0)) < _EXACT:
        return w.node("Floor", [w.node("Mul", [x, f64(m * power)])])
    # m = high · 2^15 + low: all products are below 2^30 · 2^17
    up = w.node("Mul", [x, f64(2.0 ** pre_shift(bound))])
    low = w.node("Mul", [up, f64((m & (2**_HALF - 1)) * 2.0**-_HALF)])
    high = w.node("Mul", [up, f64(m >> _HALF)])
    both = w.node("Add", [high, w.node("Floor", [low])])
    return w.node("Floor", [w.node("Mul", [both, f64(2.0 ** (_HALF - 32))])])


def largest(w: Writer, number: int) -> int:
    """Returns a bound of a term of a rounding, by the kernel's own sums where it is a layer's."""
    op = w.producers.get(number)
    if w.dtype(number) == np.int8:
        return STEPS
    if op is None or op.kind not in LAYERS or w.constant(op.inputs[1]) is None:
        return 2**30
    kernel = np.abs(w.constant(op.inputs[1]).astype(np.int64))
    summed = tuple(a for a in range(kernel.ndim) if a != layers.kernel_outputs(op))
    if op.kind == "dot_general":
        summed = tuple(op.params["dimension_numbers"][0][1])
    return int(kernel.sum(summed).max(initial=0)) * STEPS


def look_up(w: Writer, op: Op) -> None:
    """Writes a look-up of the 256 results of a function, of each channel if it has its own."""
    x, table = op.inputs
    names, lay = aligned(w, op, [x])
    start = np.asarray(STEPS, np.int32)
    if op.params["axis"] is not None:
        along = [1] * len(op.shape)
        axis = op.params["axis"] % len(along)
        along[axis] = op.shape[axis].r
        start = (start + 256 * np.arange(along[axis], dtype=np.int32)).reshape(along)
    index = w.node("Add", [w.cast(names[0], np.int32), w.const(lay(start))])
    numbers = w.const(w.constant(table).reshape(-1))
    _put(w, op, [x], w.node("Gather", [numbers, index], axis=0))


def dequantize(w: Writer, op: Op) -> None:
    """Writes (sum + offset) · scale."""
    x, scale, *offset = op.inputs
    names, lay = aligned(w, op, [x])
    name = w.cast(names[0], np.int32) if w.dtype(x) != np.int32 else names[0]
    if offset:
        name = w.node("Add", [name, w.const(lay(w.constant(offset[0])))])
    scale, axis = w.constant(scale), op.params["axis"]
    if scale.ndim:
        scale = scale.reshape([-1 if a == axis else 1 for a in range(len(op.shape))])
    name = w.node("Mul", [w.cast(name, np.float32), w.const(lay(scale))])
    _put(w, op, [x], name)


def product(w: Writer, op: Op) -> None:
    """Writes a product; of int8 in int32."""
    if w.dtype(op.inputs[0]) != np.int8:
        elementwise.EMITTERS["mul"](w, op)
        return
    names, _ = aligned(w, op, op.inputs)
    _put(w, op, op.inputs, w.node("Mul", [w.cast(name, np.int32) for name in names]))


def aligned(w: Writer, op: Op, terms: tuple | list) -> tuple[list[str], Callable]:
    """Returns operands in one order of axes, and what brings a constant into that order."""
    rows, rank = rows_of(w, terms), len(op.shape)
    wide = [i for i in terms if len(w.shape(i)) == rank]
    perm = w.order(wide) if wide else tuple(range(rank))

    def lay(value: np.ndarray) -> np.ndarray:
        value = np.asarray(value)
        if value.size == 1:
            return value.reshape(())
        value = value.reshape((1,) * (rank - value.ndim) + value.shape)
        if rows is not None:
            return value if value.shape[-1] == 1 else value.take(rows, -1)
        return value.transpose(perm)

    if rows is not None:
        return [in_rows(w, i, rows) for i in terms], lay
    return [w.get(i, perm if i in wide else None) for i in terms], lay


def _put(w: Writer, op: Op, terms: tuple | list, name: str) -> None:
    """Records a result in the order of axes of `aligned`."""
    rows = rows_of(w, terms)
    wide = [i for i in terms if len(w.shape(i)) == len(op.shape)]
    if rows is not None:
        w.put(op.output, name, rows=rows)
    else:
        w.put(op.output, name, w.order(wide) if wide else None)


EMITTERS = {
    "conv_general_dilated": convolution,
    "dot_general": dense,
    "mul": product,
    "quantize": quantize,
    "requantize": requantize,
    "look_up": look_up,
    "dequantize": dequantize,
}
