"""Sums, extremes, pools, running sums and sorting, as ONNX nodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hcjax.export.onnx.movement import padded
from hcjax.export.onnx.writer import Writer, refuse
from hcjax.graph.model import Op, Size


def reduction(kind: str, through: type | None = None) -> Callable[[Writer, Op], None]:
    """Returns the emitter of a node that reduces axes. through: dtype that it computes in."""

    def emitter(w: Writer, op: Op) -> None:
        (x,) = op.inputs
        perm, axes = w.order([x]), op.params["axes"]
        name = w.get(x, perm)
        if w.dtype(x) == np.int8 and kind == "ReduceSum":
            name = w.cast(name, np.int32)
        name = name if through is None else w.cast(name, through)
        places = w.const([perm.index(a) for a in axes], np.int64)
        name = w.node(kind, [name, places], keepdims=0)
        name = name if through is None else w.cast(name, w.dtype(op.output))
        w.put(op.output, name, left(perm, axes))

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
            name = w.cast(name, np.int32)
        name = w.node(kind, [name], axis=perm.index(axis), keepdims=0)
        w.put(op.output, w.cast(name, op.params["index_dtype"]), left(perm, (axis,)))

    return emitter


# --- pools


def pool_order(w: Writer, op: Op) -> tuple[tuple[int, ...], int]:
    """Returns an order of axes with two that no window covers first, and how many of these lack."""
    params, rank = op.params, len(op.shape)
    names = ("window_dimensions", "window_strides", "base_dilation", "window_dilation")
    lists = [params[name] or (1,) * rank for name in names]
    free = [a for a in range(rank)
            if all(v[a] == 1 for v in lists) and tuple(params["padding"][a]) == (0, 0)]  # fmt: skip
    perm = w.order(op.inputs)
    if all(a in free for a in perm[:2]):
        return perm, 0
    first = free[:1] + free[-1:] if len(free) > 1 else free
    return (*first, *(a for a in perm if a not in first)), 2 - len(first)


def window(w: Writer, op: Op, perm: tuple[int, ...], name: str, lack: int) -> tuple[str, dict]:
    """Returns the input of a pool with its two free axes, and a pool's attributes."""
    params, rank = op.params, len(perm)
    base = params["base_dilation"] or (1,) * rank
    if any(n != 1 for n in base):
        raise refuse(op, "spreads its input out")
    if lack:
        name = w.node("Unsqueeze", [name, w.const(list(range(lack)), np.int64)])
    axes = perm[2 - lack :]
    pads = [params["padding"][a] for a in axes]
    dilation = params["window_dilation"] or (1,) * rank
    return name, {
        "kernel_shape": [params["window_dimensions"][a] for a in axes],
        "strides": [params["window_strides"][a] for a in axes],
        "dilations": [dilation[a] for a in axes],
        "pads": [low for low, _ in pads] + [high for _, high in pads],
    }


def pool(sign: int) -> Callable[[Writer, Op], None]:
    """Returns the emitter of a max pool, or of a min pool for sign -1."""

    def emitter(w: Writer, op: Op) -> None:
        perm, lack = pool_order(w, op)
        name = w.get(op.inputs[0], perm)
        name, attributes = window(w, op, perm, name, lack)
        dtype = w.dtype(op.inputs[0])
        other = dtype not in (np.float32, np.int8, np.uint8)
        if sign < 0:
            name = _mirror(w, name, dtype)
        name = w.cast(name, np.float32) if other else name
        attributes = _beyond(w, op, attributes)
        if isinstance(attributes, tuple):
            least = -np.inf if dtype.kind == "f" or other else np.iinfo(dtype).min
            config, attributes = attributes
            sizes = [Size(0, 1)] * lack + [w.shape(op.inputs[0])[a] for a in perm]
            value = w.const(least, np.float32 if other else dtype)
            name = padded(w, name, sizes, config, value)
        name = w.node("MaxPool", [name], **attributes)
        name = w.cast(name, dtype) if other else name
        name = _mirror(w, name, dtype) if sign < 0 else name
        name = w.node("Squeeze", [name, w.const(list(range(lack)), np.int64)]) if lack else name
        w.put(op.output, name, perm)

    return emitter


def _mirror(w: Writer, name: str, dtype: np.dtype) -> str:
    """Turns the order of numbers round: -x, or ~x of int8, whose least number has no negative."""
    return w.node("BitwiseNot", [name]) if dtype.kind in "iu" else w.node("Neg", [name])


def _beyond(w: Writer, op: Op, attributes: dict) -> dict | tuple[list, dict]:
    """Returns attributes as they are, or (a padding of its own, others) if pads exceed windows."""
    pads, sizes = attributes["pads"], attributes["kernel_shape"]
    half = len(sizes)
    if all(0 <= p < n for p, n in zip(pads, sizes * 2, strict=True)):
        return attributes
    config = [(0, 0, 0)] * 2 + [(pads[i], pads[half + i], 0) for i in range(half)]
    return config, attributes | {"pads": [0] * len(pads)}


def _pool_sum(w: Writer, op: Op) -> None:
    (x,) = op.inputs
    perm, lack = pool_order(w, op)
    name, attributes = window(w, op, perm, w.get(x, perm), lack)
    dtype, out = w.dtype(x), w.dtype(op.output)
    sizes = [Size(0, 1)] * lack + [w.shape(x)[a] for a in perm]
    if attributes["kernel_shape"] and not sizes[1].q:
        half = len(attributes["kernel_shape"])
        config = [(0, 0, 0)] * 2 + [
            (attributes["pads"][i], attributes["pads"][half + i], 0) for i in range(half)
        ]
        name = padded(w, name, sizes, config, w.const(0, dtype))
        attributes["pads"] = [0] * (2 * half)
    count = int(np.prod(attributes["kernel_shape"]))
    if dtype.kind == "f":
        flat = [attributes.pop("dilations")]
        if set(flat[0]) <= {1}:
            name = w.node("AveragePool", [name], count_include_pad=1, **attributes)
            name = w.node("Mul", [name, w.const(count, dtype)])
        else:
            name = _ones(w, name, sizes[1].r, attributes | {"dilations": flat[0]}, dtype)
    else:  # whole numbers, exact in float64's 53 bits or float32's 24: as a sum of ones
        name = w.cast(name, np.int8 if dtype == np.int8 else np.float32)
        name = _ones(
            w, name, sizes[1].r, attributes, np.dtype(np.int8 if dtype == np.int8 else np.float32)
        )
        name = w.cast(name, out)
    name = w.node("Squeeze", [name, w.const(list(range(lack)), np.int64)]) if lack else name
    w.put(op.output, name, perm)


def _ones(w: Writer, name: str, channels: int, attributes: dict, dtype: np.dtype) -> str:
    """Adds up windows as a convolution of each channel with ones."""
    shape = attributes.pop("kernel_shape")
    kernel = w.const(np.ones([channels, 1, *shape]), dtype)
    kind = "ConvInteger" if dtype == np.int8 else "Conv"
    return w.node(kind, [name, kernel], group=channels, **attributes)


# --- along one axis


def _cumulative_sum(w: Writer, op: Op) -> None:
    (x,) = op.inputs
    perm = w.order([x])
    name = w.get(x, perm)
    name = w.cast(name, np.int32) if w.dtype(x) == np.int8 else name
    axis = w.const(perm.index(op.params["axis"]), np.int64)
    w.put(op.output, w.node("CumSum", [name, axis], reverse=int(op.params["reverse"])), perm)


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
    """Returns the sorted numbers and their places; int8 is sorted as int32, as few kernels are."""
    narrow = dtype not in (np.float32, np.int32, np.int64)
    name = w.cast(name, np.int32) if narrow else name
    values, places = w.node("TopK", [name, count], 2, axis=axis, largest=largest, sorted=1)
    return [w.cast(values, dtype) if narrow else values, places]


EMITTERS = {
    "reduce_sum": reduction("ReduceSum"),
    "reduce_max": reduction("ReduceMax"),
    "reduce_min": reduction("ReduceMin"),
    "reduce_prod": reduction("ReduceProd"),
    "reduce_and": reduction("ReduceMin", np.int32),
    "reduce_or": reduction("ReduceMax", np.int32),
    "argmax": _index("ArgMax"),
    "argmin": _index("ArgMin"),
    "reduce_window_max": pool(1),
    "reduce_window_min": pool(-1),
    "reduce_window_sum": _pool_sum,
    "cumsum": _cumulative_sum,
    "cummax": _doubling(_either("Max"), _least),
    "cummin": _doubling(_either("Min"), _greatest),
    "cumprod": _doubling(_either("Mul"), lambda dtype: 1),
    "cumlogsumexp": _doubling(_log_sum, _least),
    "sort": _sort,
    "top_k": _top_k,
}
