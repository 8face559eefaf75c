"""Products of a block with all its weights, rows at a time, by vectors where there are some."""

from __future__ import annotations

import numpy as np

from hcjax.export.c.blocks import Block, Loops, made
from hcjax.export.c.writer import SLACK, Writer
from hcjax.graph.ops.fixed_point import pre_shift

_ROWS = 24  # results of a layer at a time, about: enough for a kernel to be read seldom
_FEW = 16  # results of which whole windows are enough
_LANES = 16


def write(w: Writer, block: Block, loops: Loops) -> None:
    """Writes a block."""
    kh, kw, channels, count = loops.kernel.shape
    (oh, ow), (wh, ww) = loops.shape, loops.window
    (sh, sw), (ph, pw) = loops.strides, loops.padding
    height, width = loops.height, loops.width
    terms = kh * kw * channels
    quads = -(-terms // 4)
    packed = np.zeros((quads * 4, count), np.int8)
    packed[:terms] = loops.kernel.reshape(terms, count)
    weights = w.data("int8_t", packed.reshape(quads, 4, count).transpose(0, 2, 1), SLACK)
    lanes = -(-count // _LANES) * _LANES
    start = np.zeros(lanes, np.int32)
    start[:count] = -128 * loops.kernel.astype(np.int64).sum((0, 1, 2))
    rows = _rows(oh, ow, wh)
    w.comment(block.last, f", from {height}x{width}x{channels} by {kh}x{kw}")
    source = w.name(loops.source)
    direct = (kh, kw, sh, sw, ph, pw) == (1, 1, 1, 1, 0, 0) and (ow, oh) == (width, height)
    acc = w.buffer("int32_t", rows * ow * lanes)
    if direct:
        given, stride = f"{source} + y * {ow * channels}", channels
    else:
        patch, stride = w.buffer("uint8_t", rows * ow * quads * 4), quads * 4
        given = patch
    other = None if block.other is None else w.name(block.other)
    to = made(w, block, source)
    w.add(f"for (int y = 0; y < {oh}; y += {rows}) {{")
    w.add(f"  const int n = {oh} - y < {rows} ? {oh} - y : {rows};")
    if not direct:
        w.add(
            f"  windows(n, y, {ow}, {kh}, {kw}, {channels}, {height}, {width}, {sh}, {sw}, {ph}, "
            f"{pw}, {loops.fill}, {source}, {patch}, {stride});"
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
    bounds = op.params["bounds"]
    mine = block.terms.index(block.layer.output)
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
