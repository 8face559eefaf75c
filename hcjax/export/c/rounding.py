"""The integer program's own ops: from real numbers to integers, between scales, and back."""

from __future__ import annotations

import math

import numpy as np

from hcjax.export.c.elementwise import read
from hcjax.export.c.writer import TYPES, Writer, broadcast, index, number
from hcjax.graph.model import Op
from hcjax.graph.ops.fixed_point import pre_shift


def quantize(w: Writer, op: Op) -> None:
    """Writes round(x · (1 / scale)) + zero, clipped."""
    p, scale = op.params, np.float32(w.constant(op.inputs[1]))
    values = (np.float32(1) / scale, p.get("zero", 0), p["least"], p["most"])
    w.comment(op)
    x, to = w.name(op.inputs[0]), w.make(op.output)
    value = f"rounded({x}[i], {', '.join(map(number, values))})"
    w.add(
        f"for (int i = 0; i < {math.prod(w.sizes(op.output))}; i++) "
        f"{to}[i] = (uint8_t)({value} + 128);"
    )


def requantize(w: Writer, op: Op) -> None:
    """Writes a sum of accumulators as integers of another scale, number by number."""
    if op.output in w.done:
        return
    count = len(op.params["bounds"])
    sizes = w.sizes(op.output)
    w.comment(op)
    terms = []
    for i, bound in zip(range(count), op.params["bounds"], strict=True):
        m = _constant(w, op.inputs[count + i], sizes)
        term = read(w, op.inputs[i], sizes)
        terms.append(f"mulhi(shifted({term}, {pre_shift(bound)}), {m})")
    offset, shift = (_constant(w, n, sizes) for n in op.inputs[2 * count :])
    low, high = op.params["least"], op.params["most"]
    value = f"clipped(({' + '.join([*terms, offset])}) >> {shift}, {low}, {high})"
    if w.dtype(op.output) == "int8":
        value = f"(uint8_t)({value} + 128)"
    to = w.make(op.output)
    w.loops(sizes, f"{to}[{index(sizes)}] = {value};")


def _constant(w: Writer, n: int, sizes: tuple[int, ...]) -> str:
    """Returns a constant of a requantization at the place of a result."""
    value = w.constant(n)
    if value.size and (value == value.reshape(-1)[0]).all():
        return str(value.reshape(-1)[0])
    return f"{w.name(n)}[{index(sizes, broadcast(value.shape, sizes))}]"


def look_up(w: Writer, op: Op) -> None:
    """Writes table[q + 128], a table for each index of an axis or one."""
    x, table = op.inputs
    sizes, axis = w.sizes(op.output), op.params["axis"]
    value = w.constant(table)
    kind = TYPES[value.dtype.name]
    stored = (value.astype(np.int16) + 128).astype(np.uint8) if value.dtype == np.int8 else value
    w.comment(op)
    name, q, to = w.data(kind, stored), w.name(x), w.make(op.output)
    at = f"{q}[{index(sizes)}]"
    if axis is not None and value.size > 256:
        at += f" + 256 * {f'i{axis}' if sizes[axis] != 1 else 0}"
    w.loops(sizes, f"{to}[{index(sizes)}] = {name}[{at}];")


def dequantize(w: Writer, op: Op) -> None:
    """Writes (accumulator + offset) · scale as float32."""
    if op.output in w.done:
        return
    x, scale, *offset = op.inputs
    sizes, axis = w.sizes(op.output), op.params["axis"]
    w.comment(op)
    total = read(w, x, sizes)
    if offset:
        shape = w.sizes(offset[0])
        total = f"({total} + {w.name(offset[0])}[{index(sizes, broadcast(shape, sizes))}])"
    strides = [int(a == axis and w.sizes(scale) != ()) for a in range(len(sizes))]
    factor = f"{w.name(scale)}[{index(sizes, strides)}]"
    to = w.make(op.output)
    w.loops(sizes, f"{to}[{index(sizes)}] = (float){total} * {factor};")


ROUNDING = {
    "quantize": quantize,
    "requantize": requantize,
    "look_up": look_up,
    "dequantize": dequantize,
}
