"""Layers of 8-bit integers in blocks: with what stands around them, and what their loops run over.

A layer whose sums only one op reads is written together with it: its sums are never all in memory.
A pad before it is its own padding, and a max-pool behind it takes the largest sum before rounding,
where rounding keeps the order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jax import lax

from hcjax.export.c.writer import Writer
from hcjax.export.program import Program
from hcjax.graph.model import Op, consumers
from hcjax.graph.qtensor import QTensor


class Block(NamedTuple):
    """Ops that are written together, at the last of them.

    layer: a convolution or a dense product. pad: before it, or None. after: requantize or
    dequantize, or None. pool: behind that, or None.
    """

    layer: Op
    pad: Op | None
    after: Op | None
    pool: Op | None

    @property
    def last(self) -> Op:
        """The op at whose place the block is written."""
        return self.pool or self.after or self.layer

    @property
    def terms(self) -> tuple[int, ...]:
        """Numbers of what is added up before it is rounded to 8 bits, its own sums among them."""
        if self.after is None or self.after.kind != "requantize":
            return ()
        return self.after.inputs[: len(self.after.params["bounds"])]

    @property
    def other(self) -> int | None:
        """Number of the term that is not its own sums, if there is one."""
        return next((n for n in self.terms if n != self.layer.output), None)

    @property
    def ops(self) -> list[Op]:
        """All that are there."""
        return [op for op in (self.layer, self.pad, self.after, self.pool) if op is not None]


def blocks(found: Program) -> dict[int, Block]:
    """Returns number of the last op's result -> block."""
    readers, made = consumers(found.ops), {o: op for op in found.ops for o in op.outputs}
    outputs = set(found.model.graph.outputs)

    def alone(op: Op) -> Op | None:
        """Returns the only reader of an op's result, if nothing else needs it."""
        read = readers.get(op.output, [])
        return read[0] if len(read) == 1 and op.output not in outputs else None

    result, taken = {}, set()
    for op in found.ops:
        if not is_fast(found, op):
            continue
        pad = made.get(op.inputs[0])
        if not (pad and alone(pad) is op and _is_padding(found, pad, op)):
            pad = None
        after = alone(op)
        if after is None or after.output in taken or not _rounds(found, after, op):
            after = None
        pool = alone(after) if after is not None and after.kind == "requantize" else None
        if pool is not None and not _pools(found, pool, after, op):
            pool = None
        block = Block(op, pad, after, pool)
        if after is not None:
            taken.add(after.output)
        result[block.last.output] = block
    return result


def is_fast(found: Program, op: Op) -> bool:
    """Returns whether a layer is one of 8-bit integers on channels last, with a known kernel."""
    kernel = found.values.get(op.inputs[1]) if len(op.inputs) == 2 else None
    if not isinstance(kernel, QTensor) or found.dtypes.get(op.inputs[0]) != np.int8:
        return False
    p, rank = op.params, len(found.shapes[op.inputs[0]])
    if op.kind == "dot_general":
        (left, _), batch = p["dimension_numbers"]
        return not any(batch) and tuple(left) == (rank - 1,) and kernel.values.ndim == 2
    if op.kind != "conv_general_dilated" or rank != 4:
        return False
    numbers = lax.ConvDimensionNumbers(*p["dimension_numbers"])
    plain = numbers.lhs_spec == numbers.out_spec == (0, 3, 1, 2)
    ones = {*p["lhs_dilation"], *p["rhs_dilation"], p["feature_group_count"]} == {1}
    return plain and ones and min(low for low, _ in p["padding"]) >= 0


def _is_padding(found: Program, pad: Op, layer: Op) -> bool:
    """Returns whether a pad's numbers can be the convolution's own padding."""
    if pad.kind != "pad" or layer.kind != "conv_general_dilated":
        return False
    if pad.inputs[1] not in found.values or any(
        n for pair in layer.params["padding"] for n in pair
    ):
        return False
    config = [tuple(map(int, axis)) for axis in pad.params["padding_config"]]
    edges = [n for low, high, _ in config for n in (low, high)]
    between = [n for *_, n in config]
    return not any(between) and min(edges) >= 0 and config[0] == config[3] == (0, 0, 0)


def _rounds(found: Program, op: Op, layer: Op) -> bool:
    """Returns whether an op rounds a layer's sums, beside one activation of its shape at most."""
    if op.kind == "dequantize":
        return op.params["axis"] in (-1, len(layer.shape) - 1)
    if op.kind != "requantize" or found.dtypes[op.output] != np.int8:
        return False
    count = len(op.params["bounds"])
    others = [n for n in op.inputs[:count] if n != layer.output]
    constants = [found.values[n] for n in op.inputs[count:]]
    channels = all(np.size(c) in (1, np.shape(c)[-1] if np.ndim(c) else 1) for c in constants)
    alike = all(
        found.dtypes.get(n) == np.int8 and found.shapes.get(n) == layer.shape for n in others
    )
    return channels and alike and len(others) == count - 1 <= 1


def _pools(found: Program, op: Op, after: Op, layer: Op) -> bool:
    """Returns whether an op is a max-pool that may take sums before they are rounded."""
    if op.kind != "reduce_window_max" or layer.kind != "conv_general_dilated":
        return False
    p, count = op.params, len(after.params["bounds"])
    window = tuple(p["window_dimensions"])
    tiles = window == tuple(p["window_strides"]) and window[0] == window[3] == 1
    ones = {*p["base_dilation"], *p["window_dilation"]} == {1}
    edges = any(n for pair in p["padding"] for n in pair)
    rising = count == 1 and (np.asarray(found.values[after.inputs[1]]) >= 0).all()
    return tiles and ones and not edges and bool(rising)


class Loops(NamedTuple):
    """What the loops of a block run over.

    kernel: [KH, KW, I, O], int8. source: number of what is read. height, width: of that. shape:
    (OH, OW) of the sums. strides, padding: (rows, columns). fill: of the padding, q + 128. window:
    of the pool, (1, 1) without one.
    """

    kernel: np.ndarray
    source: int
    height: int
    width: int
    shape: tuple[int, int]
    strides: tuple[int, int]
    padding: tuple[int, int]
    fill: int
    window: tuple[int, int]


def loops(w: Writer, block: Block) -> Loops:
    """Returns what the loops of a block run over; a dense product is one of 1 x 1 on a row."""
    layer = block.layer
    source = block.pad.inputs[0] if block.pad else layer.inputs[0]
    kernel, outputs, place = w.constant(layer.inputs[1]), w.sizes(layer.output), w.sizes(source)
    if layer.kind == "dot_general":
        (_, right), _ = layer.params["dimension_numbers"]
        kernel = (kernel if right[0] == 0 else kernel.T)[None, None]
        rows = math.prod(outputs[:-1])
        return Loops(kernel, source, 1, rows, (1, rows), (1, 1), (0, 0), 128, (1, 1))
    numbers = lax.ConvDimensionNumbers(*layer.params["dimension_numbers"])
    out, into, *taps = numbers.rhs_spec
    padding, fill = tuple(int(low) for low, _ in layer.params["padding"]), 128
    if block.pad:
        fill = int(w.constant(block.pad.inputs[1]).reshape(-1)[0]) + 128
        padding = tuple(int(low) for low, _, _ in block.pad.params["padding_config"][1:3])
    window = tuple(block.pool.params["window_dimensions"][1:3]) if block.pool else (1, 1)
    return Loops(
        kernel.transpose(*taps, into, out),
        source,
        *place[1:3],
        tuple(outputs[1:3]),
        tuple(layer.params["window_strides"]),
        padding,
        fill,
        window,
    )


def made(w: Writer, block: Block, source: str) -> str:
    """Returns the name of the array that a block's result is written to.

    It is that of the other term if nothing reads it again: number by number, each is read before it
    is written. source: name of what the layer reads at several places.
    """
    term = block.other
    if term is not None and w.name(term) != source and w.is_last(term):
        return w.alias(block.last.output, term)
    return w.make(block.last.output)


def covered(found: dict[int, Block]) -> set[int]:
    """Returns the numbers of results that blocks write, or make superfluous."""
    return {op.output for block in found.values() for op in block.ops}
