"""Ops that move numbers, as ONNX nodes; those that only name axes anew write none."""

from __future__ import annotations

import numpy as np

from hcjax.export.onnx.writer import Value, Writer
from hcjax.graph.model import Op, Size
from hcjax.graph.ops import family
from hcjax.graph.ops.kind import CAST, ELEMENTWISE

_END = np.iinfo(np.int64).max
# ops between a flattened image and a dense layer that leave the order of its rows open
_ROW_WISE = {ELEMENTWISE, CAST}  # families; and kinds:
_ROW_WISE_KINDS = {"requantize", "quantize", "stop_gradient", "copy"}


def transpose(w: Writer, op: Op) -> None:
    """Names the axes anew."""
    (x,), order = op.inputs, tuple(op.params["permutation"])
    value = _without_rows(w, x)
    missing = frozenset(order.index(a) for a in value.missing)
    w.put(op.output, value.name, [order.index(a) for a in value.perm], missing=missing)


def reshape(w: Writer, op: Op) -> None:
    """Writes a reshape; one that only adds or removes axes of size 1 keeps the order of others."""
    (x,) = op.inputs
    before, after, value = w.shape(x), op.shape, w.value(x)
    if before == after:
        w.values[op.output] = value
    elif [s for s in before if s != (0, 1)] == [s for s in after if s != (0, 1)] and before:
        _rename_units(w, op, x)
    elif _flattens(value, before, after) and _reads_rows(w, op.output):
        sizes = np.arange(after[1].r).reshape([s.r for s in before[1:]])
        rows = sizes.transpose([a - 1 for a in value.perm[1:]]).ravel()
        w.put(op.output, w.reshape(w.get(x, value.perm), after), rows=rows)
    else:
        w.put(op.output, w.reshape(w.get(x), after))


def _flattens(value: Value, before: tuple[Size, ...], after: tuple[Size, ...]) -> bool:
    images = len(after) == 2 and after[0] == before[0] and value.perm[0] == 0
    moved = value.perm != tuple(range(len(before))) and value.rows is None
    return images and moved and not any(size.q for size in before[1:])


def _reads_rows(w: Writer, number: int) -> bool:
    """Returns whether all that read a flattened image are dense layers, or row by row behind it."""
    if number in w.found.model.graph.outputs or number not in w.readers:
        return False
    for op in w.readers[number]:
        others = [i for i in op.inputs if i != number]
        if any(w.constant(i) is None for i in others):
            return False
        if op.kind == "dot_general":
            if op.inputs[0] != number or op.params["dimension_numbers"] != (((1,), (0,)), ((), ())):
                return False
        elif not _row_wise(op) or len(op.shape) != 2 or not _reads_rows(w, op.output):
            return False
    return True


def _row_wise(op: Op) -> bool:
    return family(op) in _ROW_WISE or op.kind in _ROW_WISE_KINDS


def _rename_units(w: Writer, op: Op, x: int) -> None:
    """Removes and adds axes of size 1 where the array lies."""
    value, before = _without_rows(w, x), w.shape(x)
    kept = [a for a, size in enumerate(before) if size != (0, 1)]
    new = [a for a, size in enumerate(op.shape) if size != (0, 1)]
    to = dict(zip(kept, new, strict=True))
    moved = [to[a] for a in value.perm if a in to]
    perm = (
        tuple(range(len(op.shape)))
        if moved == sorted(moved)
        else tuple(moved + [a for a, size in enumerate(op.shape) if size == (0, 1)])
    )
    missing = frozenset(to[a] for a in value.missing if a in to)
    sizes = [Size(0, 1) if a in missing else op.shape[a] for a in perm]
    w.put(op.output, w.reshape(value.name, sizes), perm, missing=missing)


def _without_rows(w: Writer, number: int) -> Value:
    value = w.value(number)
    if value.rows is None:
        return value
    return Value(w.get(number), tuple(range(len(value.perm))))


def squeeze(w: Writer, op: Op) -> None:
    """Removes axes of size 1."""
    _rename_units(w, op, op.inputs[0])


def broadcast_in_dim(w: Writer, op: Op) -> None:
    """Gives an array more axes; along new ones it stays as it is until an op needs all of it."""
    (x,), axes = op.inputs, op.params["broadcast_dimensions"]
    value, before = _without_rows(w, x), w.shape(x)
    new = [a for a in range(len(op.shape)) if a not in axes]
    missing = {axes[a] for a in value.missing} | set(new)
    missing |= {axes[a] for a, size in enumerate(before) if size != op.shape[axes[a]]}
    moved = [axes[a] for a in value.perm]
    ordered = moved == sorted(moved)
    perm = tuple(range(len(op.shape))) if ordered else (*moved, *new)
    name = value.name
    if new:
        places = new if ordered else list(range(len(moved), len(perm)))
        name = w.node("Unsqueeze", [name, w.const(places, np.int64)])
    missing = frozenset(a for a in missing if op.shape[a] != (0, 1))
    w.put(op.output, name, perm, missing=missing)


def _ranges(w: Writer, op: Op, rows: list[tuple[int, str, str, int]]) -> None:
    """Writes a slice: of (axis, start, end, step)."""
    (x,) = op.inputs
    value = _without_rows(w, x)
    if not rows:
        w.values[op.output] = value
        return
    name = w.get(x, value.perm, value.missing - {a for a, *_ in rows})
    axes = w.const([value.perm.index(a) for a, *_ in rows], np.int64)
    steps = w.const([step for *_, step in rows], np.int64)
    starts, ends = (
        part[0] if len(part) == 1 else w.node("Concat", part, axis=0)
        for part in ([r[1] for r in rows], [r[2] for r in rows])
    )
    missing = value.missing - {a for a, *_ in rows}
    w.put(op.output, w.node("Slice", [name, starts, ends, axes, steps]), value.perm,
          missing=missing)  # fmt: skip


def slice_(w: Writer, op: Op) -> None:
    """Writes a slice, of the axes that it cuts."""
    shape, params = w.shape(op.inputs[0]), op.params
    steps = params["strides"] or (1,) * len(shape)
    rows = []
    for a, size in enumerate(shape):
        start, end = (size_of(params[f"{key}_indices"][a]) for key in ("start", "limit"))
        if (start, end, steps[a]) != ((0, 0), size, 1):
            rows.append((a, w.size(start), w.size(end), steps[a]))
    _ranges(w, op, rows)


def rev(w: Writer, op: Op) -> None:
    """Writes a slice with a step of -1."""
    start, end = w.const([-1], np.int64), w.const([-_END], np.int64)
    _ranges(w, op, [(a, start, end, -1) for a in op.params["dimensions"]])


def size_of(value: Size | int) -> Size:
    """Returns a size that may be written as a plain number."""
    return value if isinstance(value, Size) else Size(0, int(value))


def concatenate(w: Writer, op: Op) -> None:
    """Writes a concatenation, in the order of axes of the first operand that is computed."""
    perm = w.order(op.inputs)
    names = [w.get(i, perm) for i in op.inputs]
    axis = perm.index(op.params["dimension"])
    w.put(op.output, w.node("Concat", names, axis=axis), perm)


def pad(w: Writer, op: Op) -> None:
    """Writes a padding; between numbers, by new axes that are padded and merged."""
    x, value = op.inputs
    perm = w.order([x])
    config = [op.params["padding_config"][a] for a in perm]
    names, dtype = [w.get(x, perm), w.get(value)], w.dtype(x)
    narrow = dtype in (np.int16, np.uint16)  # ONNX Runtime pads none of them
    names = [w.cast(name, np.int32) for name in names] if narrow else names
    name = padded(w, names[0], [w.shape(x)[a] for a in perm], config, names[1])
    w.put(op.output, w.cast(name, dtype) if narrow else name, perm)


def padded(w: Writer, name: str, shape: list[Size], config: list, value: str) -> str:
    """Pads an array. config: (low, high, between) of each axis; negative ones cut."""
    shape = list(shape)
    for a, (_, _, between) in enumerate(config):
        if between:
            size = shape[a].r
            open_ = [*shape[: a + 1], Size(0, 1), *shape[a + 1 :]]
            pads = [0] * len(open_) + [between if i == a + 1 else 0 for i in range(len(open_))]
            name = w.node("Pad", [w.reshape(name, open_), w.const(pads, np.int64), value])
            shape[a] = Size(0, size * (between + 1))
            name = w.reshape(name, shape)
            config = [
                (low, high - between, 0) if i == a else (low, high, mid)
                for i, (low, high, mid) in enumerate(config)
            ]
    lows, highs = [low for low, *_ in config], [high for _, high, _ in config]
    if not any(lows + highs):
        return name
    return w.node("Pad", [name, w.const(lows + highs, np.int64), value])


def iota(w: Writer, op: Op) -> None:
    """Writes numbers that count along an axis."""
    axis, dtype = op.params["dimension"], w.dtype(op.output)
    size = op.shape[axis]
    if size.q:
        end = w.node("Squeeze", [w.size(size), w.const([0], np.int64)])
        line = w.node("Range", [w.const(0, np.int64), end, w.const(1, np.int64)])
        line = w.cast(line, dtype)
    else:
        line = w.const(np.arange(size.r), dtype)
    other = [a for a in range(len(op.shape)) if a != axis]
    name = w.node("Unsqueeze", [line, w.const(other, np.int64)]) if other else line
    missing = frozenset(a for a in other if op.shape[a] != (0, 1))
    w.put(op.output, name, missing=missing)


EMITTERS = {
    "reshape": reshape,
    "transpose": transpose,
    "squeeze": squeeze,
    "broadcast_in_dim": broadcast_in_dim,
    "slice": slice_,
    "rev": rev,
    "concatenate": concatenate,
    "pad": pad,
    "iota": iota,
}
