"""Ops that move numbers: each number of the result is one of an operand, or a constant.

Which one it is, is found by moving the positions themselves: the op runs once on an array of them.
Positions that are sums over axes are loops; others are a table.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError
from hcjax.export.c.writer import TYPES, Writer, index
from hcjax.graph.model import Op
from hcjax.graph.ops import computes

# dtype -> what jax puts where an index is out of range: NaN, or the least number
EMPTY = {"float32": "NAN", "int32": "INT32_MIN", "int16": "INT16_MIN", "int8": "0"}
EMPTY |= {"uint32": "UINT32_MAX", "uint16": "UINT16_MAX", "uint8": "UINT8_MAX", "bool": "1"}


def moved(w: Writer, op: Op) -> None:
    """Writes an op whose operands but arrays of numbers are constants."""
    if op.kind == "gather" and w.constant(op.inputs[1]) is None:
        _looked_up(w, op)
        return
    arrays = list(op.inputs if op.kind == "concatenate" else op.inputs[:1])
    if op.kind == "pad":
        arrays = list(op.inputs)
    positions = _positions(w, op, arrays)
    sizes, count = w.sizes(op.output), int(np.prod(w.sizes(op.inputs[0])))
    if (
        len(arrays) == 1
        and positions.size == count
        and (positions == np.arange(count).reshape(sizes)).all()
    ):
        w.alias(op.output, arrays[0])
        return
    w.comment(op)
    names = [w.name(n) for n in arrays]
    to = w.make(op.output)
    start = 0
    parts = []
    for n in arrays:
        size = int(np.prod(w.sizes(n)))
        parts.append((start, size))
        start += size
    if op.kind == "pad":  # everything is the value, then the array is put in its place
        w.add(f"for (int i = 0; i < {positions.size}; i++) {to}[i] = {names[1]}[0];")
    for name, (start, size) in list(zip(names, parts, strict=True))[
        : 1 if op.kind == "pad" else None
    ]:
        where = np.argwhere((positions >= start) & (positions < start + size))
        if len(where):
            _copy(w, positions - start, where, name, to)


def _positions(w: Writer, op: Op, arrays: list[int]) -> np.ndarray:
    """Returns, for each number of the result, its position among those of the arrays together."""
    start, operands = 0, []
    for n in op.inputs:
        if n not in arrays:
            operands.append(jnp.asarray(w.constant(n)))
            continue
        sizes = w.sizes(n)
        count = int(np.prod(sizes))
        operands.append(jnp.arange(start, start + count, dtype=jnp.int32).reshape(sizes))
        start += count
    if start > 2**31 - 1:
        raise ConfigError(f"C cannot be written: {op.kind} ({op.source}) is too large")
    with jax.ensure_compile_time_eval():
        return np.asarray(computes(op.kind, op.params)(1, *operands))


def _copy(w: Writer, positions: np.ndarray, where: np.ndarray, name: str, to: str) -> None:
    """Copies the numbers at the places `where` of the result: a regular grid, or a list."""
    sizes = positions.shape
    low = where.min(0) if where.size else np.zeros(len(sizes), int)
    axes = [np.unique(where[:, a]) for a in range(len(sizes))]
    steps = [int(values[1] - values[0]) if len(values) > 1 else 1 for values in axes]
    counts = [len(values) for values in axes]
    grid = tuple(
        slice(int(lo), int(lo) + s * n, s) for lo, s, n in zip(low, steps, counts, strict=True)
    )
    found = positions[grid]
    regular = int(np.prod(counts)) == len(where) and found.shape == tuple(counts)
    strides = _strides(found) if regular else None
    if strides is None:
        flat = positions.reshape(-1)
        places = np.flatnonzero(
            np.isin(np.arange(flat.size), np.ravel_multi_index(tuple(where.T), sizes))
        )
        table = w.data("int32_t", np.stack([places, flat[places]], 1).astype(np.int32))
        w.add(
            f"for (int i = 0; i < {len(places)}; i++) {to}[{table}[2 * i]] = "
            f"{name}[{table}[2 * i + 1]];"
        )
        return
    out = np.cumprod([1, *sizes[:0:-1]])[::-1]
    start = int((low * out).sum())
    target = index(counts, [int(s * o) for s, o in zip(steps, out, strict=True)], start)
    origin = index(counts, strides, int(found.reshape(-1)[0]))
    w.loops(counts, f"{to}[{target}] = {name}[{origin}];")


def _strides(found: np.ndarray) -> list[int] | None:
    """Returns the strides of positions that are a sum over axes; None if they are no sum."""
    if not found.size:
        return [0] * found.ndim
    first, strides = int(found.reshape(-1)[0]), []
    expected = np.full(found.shape, first, np.int64)
    for a, n in enumerate(found.shape):
        along = found[(0,) * a + (slice(None),) + (0,) * (found.ndim - a - 1)]
        strides.append(int(along[1] - along[0]) if n > 1 else 0)
        shape = [1] * found.ndim
        shape[a] = n
        expected = expected + (strides[-1] * np.arange(n)).reshape(shape)
    return strides if (expected == found).all() else None


def _looked_up(w: Writer, op: Op) -> None:
    """Writes a gather of whole rows of a table by integers that depend on the inputs."""
    table, rows = op.inputs
    numbers, sizes = op.params["dimension_numbers"], w.sizes(op.output)
    shape, given = w.sizes(table), w.sizes(rows)
    slices = [int(n) for n in op.params["slice_sizes"]]
    simple = (
        tuple(numbers.start_index_map) == (0,)
        and tuple(numbers.collapsed_slice_dims) == (0,)
        and not getattr(numbers, "operand_batching_dims", ())
        and slices == [1, *shape[1:]]
        and given[-1] == 1
    )
    if not simple:
        raise ConfigError(
            f"C cannot be written: {op.kind} ({op.source}) takes other parts of an array than "
            "whole rows by an index"
        )
    offsets = tuple(numbers.offset_dims)
    inner = [a for a in range(len(sizes)) if a in offsets]
    outer = [a for a in range(len(sizes)) if a not in offsets]
    strides, own = [0] * len(sizes), np.cumprod([1, *shape[:0:-1]])[::-1]
    for a, s in zip(inner, own[1:], strict=True):
        strides[a] = int(s)
    which, size = [0] * len(sizes), 1
    for a in outer[::-1]:
        which[a], size = size, size * sizes[a]
    w.comment(op)
    name, picks, to = w.name(table), w.name(rows), w.make(op.output)
    last = shape[0] - 1
    kind = TYPES[w.dtype(rows)]
    if kind not in ("int32_t", "uint32_t", "int16_t", "uint16_t"):
        raise ConfigError(f"C cannot be written: {op.kind} ({op.source}) by {w.dtype(rows)}")
    fills = "fill" in str(op.params.get("mode", "")).lower()
    empty = EMPTY[w.dtype(op.output)]
    origin = index(sizes, strides)
    pick = f"(int32_t){picks}[{index(sizes, which)}]"
    value = f"{name}[clipped(row, 0, {last}) * {int(own[0])} + {origin}]"
    if fills:
        value = f"row < 0 || row > {last} ? {empty} : {value}"
    w.loops(sizes, f"const int32_t row = {pick};", f"{to}[{index(sizes)}] = {value};")


MOVES = dict.fromkeys(
    (
        "reshape", "transpose", "squeeze", "broadcast_in_dim", "rev", "slice", "copy",
        "stop_gradient", "gather", "pad", "concatenate", "expand_dims",
    ),
    moved,
)  # fmt: skip
