"""Layers of 8-bit integers in blocks: products, extremes of windows and rounding, rows at a time.

A layer whose sums only one op reads is written together with it: its sums are never all in memory.
A pad before it is its own padding, and a max-pool behind it takes the largest sum before rounding,
where rounding keeps the order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from jax import lax

from hcjax.export.c.writer import SLACK, Writer
from hcjax.export.program import Program
from hcjax.graph.model import Op, consumers
from hcjax.graph.ops.fixed_point import pre_shift
from hcjax.graph.qtensor import QTensor

_ROWS = 24  # results of a layer at a time, about: enough for a kernel to be read seldom
_FEW = 16  # results of which whole windows are enough
_LANES = 16


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


def write(w: Writer, block: Block) -> None:
    """Writes a block."""
    layer, x = block.layer, block.pad.inputs[0] if block.pad else block.layer.inputs[0]
    kernel = w.constant(layer.inputs[1])
    outputs, place = w.sizes(layer.output), w.sizes(x)
    fill, shape = 128, (1, 1, math.prod(outputs[:-1]), outputs[-1])
    if layer.kind == "dot_general":
        (_, right), _ = layer.params["dimension_numbers"]
        kernel = kernel if right[0] == 0 else kernel.T
        kernel = kernel[None, None]
        height, width, channels = 1, shape[2], place[-1]
        (sh, sw), (ph, pw) = (1, 1), (0, 0)
    else:
        numbers = lax.ConvDimensionNumbers(*layer.params["dimension_numbers"])
        out, into, *taps = numbers.rhs_spec
        kernel = kernel.transpose(*taps, into, out)
        shape = outputs
        height, width, channels = place[1:]
        sh, sw = layer.params["window_strides"]
        (ph, _), (pw, _) = layer.params["padding"]
        if block.pad:
            fill = int(w.constant(block.pad.inputs[1]).reshape(-1)[0]) + 128
            ph, pw = (int(low) for low, _, _ in block.pad.params["padding_config"][1:3])
    kh, kw, _, count = kernel.shape
    terms = kh * kw * channels
    quads = -(-terms // 4)
    packed = np.zeros((quads * 4, count), np.int8)
    packed[:terms] = kernel.reshape(terms, count)
    weights = w.data("int8_t", packed.reshape(quads, 4, count).transpose(0, 2, 1), SLACK)
    lanes = -(-count // _LANES) * _LANES
    start = np.zeros(lanes, np.int32)
    start[:count] = -128 * kernel.astype(np.int64).sum((0, 1, 2))
    _, oh, ow, _ = shape
    wh, ww = block.pool.params["window_dimensions"][1:3] if block.pool else (1, 1)
    rows = _rows(oh, ow, wh)
    w.comment(block.last, f", from {height}x{width}x{channels} by {kh}x{kw}")
    source = w.name(x)
    direct = (kh, kw, sh, sw, ph, pw) == (1, 1, 1, 1, 0, 0) and (ow, oh) == (width, height)
    acc = w.buffer("int32_t", rows * ow * lanes)
    if direct:
        given, stride = f"{source} + y * {ow * channels}", channels
    else:
        patch, stride = w.buffer("uint8_t", rows * ow * quads * 4), quads * 4
        given = patch
    term = next((n for n in _terms(block) if n != layer.output), None)
    other = w.name(term) if term is not None else None
    if term is not None and other != source and w.is_last(term):
        to = w.alias(block.last.output, term)  # number by number: each is read before it is written
    else:
        to = w.make(block.last.output)
    w.add(f"for (int y = 0; y < {oh}; y += {rows}) {{")
    w.add(f"  const int n = {oh} - y < {rows} ? {oh} - y : {rows};")
    if not direct:
        w.add(
            f"  windows(n, y, {ow}, {kh}, {kw}, {channels}, {height}, {width}, {sh}, {sw}, {ph}, "
            f"{pw}, {fill}, {source}, {patch}, {stride});"
        )
    w.add(
        f"  products(n * {ow}, {terms}, {count}, {lanes}, {given}, {stride}, {weights}, "
        f"{w.data('int32_t', start)}, {acc});"
    )
    if block.pool:
        w.add(f"  pooled(n, {ow}, {lanes}, {wh}, {ww}, {acc});")
    results = f"(n / {wh}) * {ow // ww}" if block.pool else f"n * {ow}"
    first = f"(y / {wh}) * {ow // ww * count}" if block.pool else f"y * {ow * count}"
    _finish(w, block, results, first, lanes, count, acc, other, to)
    w.add("}")


def _rows(oh: int, ow: int, wh: int) -> int:
    """Returns how many rows of results are computed at a time, a multiple of a pool's window.

    Their patches are most of the memory, so a window more is taken only where few are there.
    """
    rows = min(oh, max(1, -(-_ROWS // ow)))
    fewer = rows // wh * wh
    return fewer if fewer * ow >= _FEW else -(-rows // wh) * wh


def _terms(block: Block) -> tuple[int, ...]:
    if block.after is None or block.after.kind != "requantize":
        return ()
    return block.after.inputs[: len(block.after.params["bounds"])]


def _finish(w, block, results, first, lanes, count, acc, other, to) -> None:
    """Writes what becomes of the sums in `acc`."""
    op = block.after
    if op is None:
        w.add(f"  for (int p = 0; p < {results}; p++)")
        w.add(f"    for (int o = 0; o < {count}; o++)")
        w.add(f"      {to}[{first} + p * {count} + o] = {acc}[p * {lanes} + o];")
        return
    if op.kind == "dequantize":
        scale = _each(w, op.inputs[1], lanes, "float")
        offset = f" + {_each(w, op.inputs[2], lanes)}[o]" if len(op.inputs) > 2 else ""
        w.add(f"  for (int p = 0; p < {results}; p++)")
        w.add(f"    for (int o = 0; o < {count}; o++)")
        w.add(
            f"      {to}[{first} + p * {count} + o] = "
            f"(float)({acc}[p * {lanes} + o]{offset}) * {scale}[o];"
        )
        return
    bounds, terms = op.params["bounds"], _terms(block)
    mine = terms.index(block.layer.output)
    offset, shift = (_each(w, n, lanes) for n in op.inputs[-2:])
    factors = [_each(w, n, lanes) for n in op.inputs[len(bounds) : 2 * len(bounds)]]
    second, up, factor = "0", 0, "0"
    if other is not None:
        second, up = f"{other} + {first}", pre_shift(bounds[1 - mine])
        factor = factors[1 - mine]
    w.add(
        f"  requantized({results}, {count}, {lanes}, {acc}, {pre_shift(bounds[mine])}, "
        f"{factors[mine]}, {second}, {up}, {factor}, {offset}, {shift}, {op.params['least']}, "
        f"{op.params['most']}, {to} + {first});"
    )


def _each(w: Writer, n: int, lanes: int, kind: str = "int32_t") -> str:
    """Returns the name of a constant, one number for each channel, zeros behind them."""
    value = np.ravel(w.constant(n))
    channels = lanes if value.size == 1 else value.size
    full = np.zeros(lanes, value.dtype)
    full[:channels] = value
    return w.data(kind, full)


def covered(found: dict[int, Block]) -> set[int]:
    """Returns the numbers of results that blocks write, or make superfluous."""
    return {op.output for block in found.values() for op in block.ops}
