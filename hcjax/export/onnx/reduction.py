"""Sums, extremes, running sums and sorting, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hcjax.export.onnx.writer import Writer, refuse
from hcjax.graph.model import Op

# dtypes that ONNX Runtime reduces in other ways, or not
_FEW = ("int16", "uint16", "uint32")
_INTEGERS = (*_FEW, "int8", "uint8", "int32")


def reduction(kind: str, *narrow: str) -> Callable[[Writer, Op], None]:
    """Returns the emitter of a node that reduces axes. narrow: dtypes computed in int64."""

    def emitter(w: Writer, op: Op) -> None:
        (x,) = op.inputs
        perm, axes = w.order([x]), op.params["axes"]
        name, through = w.get(x, perm), w.dtype(x).name in narrow
        name = w.cast(name, np.int64) if through else name
        places = w.const([perm.index(a) for a in axes], np.int64)
        name = w.node(kind, [name, places], keepdims=0)
        w.put(op.output, w.cast(name, w.dtype(op.output)) if through else name, left(perm, axes))

    return emitter


def left(perm: tuple[int, ...], axes: tuple[int, ...]) -> list[int]:
    """Returns the order of the axes that are left."""
    kept = [a for a in range(len(perm)) if a not in axes]
    return [kept.index(a) for a in perm if a not in axes]


def _index(kind: str) -> Callable[[Writer, Op], None]:
    def emitter(w: Writer, op: Op) -> None:
        (x,), (axis,) = op.inputs, op.params["axes"]
        perm = w.order([x])
        name = w.get(x, perm)
        if w.dtype(x) not in (np.float32, np.int32):
            name = w.cast(name, np.float64)  # exact for integers of 32 bits
        name = w.node(kind, [name], axis=perm.index(axis), keepdims=0)
        w.put(op.output, w.cast(name, op.params["index_dtype"]), left(perm, (axis,)))

    return emitter


def _cumulative_sum(w: Writer, op: Op) -> None:
    (x,) = op.inputs
    perm = w.order([x])
    name = w.get(x, perm)
    through = w.dtype(x).kind in "iub"
    name = w.cast(name, np.int64) if through else name
    axis = w.const(perm.index(op.params["axis"]), np.int64)
    name = w.node("CumSum", [name, axis], reverse=int(op.params["reverse"]))
    w.put(op.output, w.cast(name, w.dtype(op.output)) if through else name, perm)


def _doubling(combine: Callable[[Writer, str, str], str], start: Callable) -> Callable:
    """Returns the emitter of a running function: each step combines twice as many numbers."""

    def emitter(w: Writer, op: Op) -> None:
        (x,), axis = op.inputs, op.params["axis"]
        perm, size = w.order([x]), w.shape(x)[axis]
        if size.q:
            raise refuse(op, "runs over the batch")
        name, place, reach = w.get(x, perm), perm.index(axis), 1
        value = w.const(start(w.dtype(x)), w.dtype(x))
        ends = (-reach, reach)
        while reach < size.r:
            ends = (-reach, reach) if op.params["reverse"] else (reach, -reach)
            pads = [[e if i == place else 0 for i in range(len(perm))] for e in ends]
            moved = w.node("Pad", [name, w.const(np.ravel(pads), np.int64), value])
            name = combine(w, name, moved)
            reach *= 2
        w.put(op.output, name, perm)

    return emitter


def _either(kind: str) -> Callable[[Writer, str, str], str]:
    return lambda w, x, y: w.node(kind, [x, y])


def _least(dtype: np.dtype) -> float:
    return -np.inf if dtype.kind == "f" else np.iinfo(dtype).min


def _greatest(dtype: np.dtype) -> float:
    return np.inf if dtype.kind == "f" else np.iinfo(dtype).max


def _log_sum(w: Writer, x: str, y: str) -> str:
    most = w.node("Max", [x, y, w.const(np.finfo(np.float32).min, np.float32)])
    parts = [w.node("Exp", [w.node("Sub", [v, most])]) for v in (x, y)]
    return w.node("Add", [most, w.node("Log", [w.node("Add", parts)])])


def _sort(w: Writer, op: Op) -> None:
    keys = op.params["num_keys"]
    if keys > 1:
        raise refuse(op, "sorts by more than one key")
    first, chosen = op.inputs[0], op.inputs[op.params["result"]]
    axis, size = op.params["dimension"], w.shape(first)[op.params["dimension"]]
    perm = w.order([first])
    count = w.size(size)
    place = perm.index(axis)
    values, order = _top(w, w.get(first, perm), w.dtype(first), count, place, largest=0)
    if chosen != first:
        values = w.node("GatherElements", [w.get(chosen, perm), order], axis=place)
    w.put(op.output, values, perm)


def _top_k(w: Writer, op: Op) -> None:
    (x,) = op.inputs
    perm = w.order([x])
    place, count = perm.index(op.params["axis"]), w.const([op.params["k"]], np.int64)
    found = _top(w, w.get(x, perm), w.dtype(x), count, place, largest=1)
    name = found[op.params["result"]]
    w.put(op.output, w.cast(name, np.int32) if op.params["result"] else name, perm)


def _top(w: Writer, name: str, dtype: np.dtype, count: str, axis: int, largest: int) -> list[str]:
    """Returns the sorted numbers and their places; narrow ones are sorted as int64."""
    narrow = dtype not in (np.float32, np.float64, np.int32, np.int64)
    name = w.cast(name, np.int64) if narrow else name
    values, places = w.node("TopK", [name, count], 2, axis=axis, largest=largest, sorted=1)
    return [w.cast(values, dtype) if narrow else values, places]


EMITTERS = {
    "reduce_sum": reduction("ReduceSum", *_INTEGERS),  # which wrap round, as in jax
    "reduce_max": reduction("ReduceMax", *_FEW),
    "reduce_min": reduction("ReduceMin", *_FEW),
    "reduce_prod": reduction("ReduceProd", *_INTEGERS),
    "reduce_and": reduction("ReduceMin", "bool"),
    "reduce_or": reduction("ReduceMax", "bool"),
    "argmax": _index("ArgMax"),
    "argmin": _index("ArgMin"),
    "cumsum": _cumulative_sum,
    "cummax": _doubling(_either("Max"), _least),
    "cummin": _doubling(_either("Min"), _greatest),
    "cumprod": _doubling(_either("Mul"), lambda dtype: 1),
    "cumlogsumexp": _doubling(_log_sum, _least),
    "sort": _sort,
    "top_k": _top_k,
}
