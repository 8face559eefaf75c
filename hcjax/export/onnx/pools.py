"""Pools, as ONNX nodes: extremes and sums of windows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hcjax.export.onnx.movement import padded
from hcjax.export.onnx.writer import Writer
from hcjax.graph.model import Op, Size


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


def window(
    w: Writer, op: Op, perm: tuple[int, ...], name: str, lack: int, value: str, padding: bool
) -> tuple[str, dict]:
    """Returns the input of a pool with its two free axes, and a pool's attributes.

    value: that padding has; it is a node of its own where a pool has no such padding, or if
    `padding`.
    """
    params, rank = op.params, len(perm)
    if lack:
        name = w.node("Unsqueeze", [name, w.const(list(range(lack)), np.int64)])
    axes = perm[2 - lack :]
    pads = [tuple(params["padding"][a]) for a in axes]
    base, dilation = (params[f"{key}_dilation"] or (1,) * rank for key in ("base", "window"))
    sizes = [params["window_dimensions"][a] for a in axes]
    fit = all(max(pair) < n and min(pair) >= 0 for pair, n in zip(pads, sizes, strict=True))
    if padding or not fit or any(base[a] > 1 for a in axes):
        config = [(0, 0, 0)] * 2
        config += [(*pair, base[a] - 1) for pair, a in zip(pads, axes, strict=True)]
        shape = [Size(0, 1)] * lack + [w.shape(op.inputs[0])[a] for a in perm]
        name = padded(w, name, shape, config, value)
        pads = [(0, 0)] * len(axes)
    return name, {
        "kernel_shape": sizes,
        "strides": [params["window_strides"][a] for a in axes],
        "dilations": [dilation[a] for a in axes],
        "pads": [low for low, _ in pads] + [high for _, high in pads],
    }


def pool(sign: int) -> Callable[[Writer, Op], None]:
    """Returns the emitter of a max pool, or of a min pool for sign -1."""

    def emitter(w: Writer, op: Op) -> None:
        perm, lack = pool_order(w, op)
        name, dtype = w.get(op.inputs[0], perm), w.dtype(op.inputs[0])
        if sign < 0:
            name = _mirror(w, name, dtype)
        other = dtype not in (np.float32, np.int8, np.uint8)
        name = w.cast(name, np.float64) if other else name  # exact for integers of 32 bits
        least = np.iinfo(dtype).min if dtype.kind in "iu" else -np.inf
        value = w.const(least, np.float64 if other else dtype)
        name, attributes = window(w, op, perm, name, lack, value, False)
        name = w.node("MaxPool", [name], **attributes)
        name = w.cast(name, dtype) if other else name
        name = _mirror(w, name, dtype) if sign < 0 else name
        name = w.node("Squeeze", [name, w.const(list(range(lack)), np.int64)]) if lack else name
        w.put(op.output, name, perm)

    return emitter


def _mirror(w: Writer, name: str, dtype: np.dtype) -> str:
    """Turns the order of numbers round: -x, or ~x of int8, whose least number has no negative."""
    return w.node("BitwiseNot", [name]) if dtype.kind in "iu" else w.node("Neg", [name])


def _pool_sum(w: Writer, op: Op) -> None:
    (x,) = op.inputs
    perm, lack = pool_order(w, op)
    name, dtype, out = w.get(x, perm), w.dtype(x), w.dtype(op.output)
    if dtype.kind != "f" and dtype != np.int8:
        name, dtype = w.cast(name, np.int64), np.dtype(np.int64)
    name, attributes = window(w, op, perm, name, lack, w.const(0, dtype), True)
    channels = Size(0, 1) if lack else w.shape(x)[perm[1]]
    count = int(np.prod(attributes["kernel_shape"]))
    if dtype.kind == "f":
        flat = [attributes.pop("dilations")]
        if set(flat[0]) <= {1}:
            name = w.node("AveragePool", [name], count_include_pad=1, **attributes)
            name = w.node("Mul", [name, w.const(count, dtype)])
        else:
            name = _ones(w, name, channels.r, attributes | {"dilations": flat[0]}, dtype)
    elif dtype == np.int8:
        name = w.cast(_ones(w, name, channels.r, attributes, dtype), out)
    else:
        name = w.cast(
            _slices(w, name, attributes, [w.shape(x)[a] for a in perm][2 - lack :], op), out
        )
    name = w.node("Squeeze", [name, w.const(list(range(lack)), np.int64)]) if lack else name
    w.put(op.output, name, perm)


def _ones(w: Writer, name: str, channels: int, attributes: dict, dtype: np.dtype) -> str:
    """Adds up windows as a convolution of each channel with ones."""
    shape = attributes.pop("kernel_shape")
    kernel = w.const(np.ones([channels, 1, *shape]), dtype)
    kind = "ConvInteger" if dtype == np.int8 else "Conv"
    return w.node(kind, [name, kernel], group=channels, **attributes)


def _slices(w: Writer, name: str, attributes: dict, sizes: list[Size], op: Op) -> str:
    """Adds up windows as slices, one for each of their places: exact for integers."""
    axes = w.const(list(range(2, 2 + len(sizes))), np.int64)
    steps = attributes["strides"]
    results = [op.shape[a].r for a in pool_order(w, op)[0]][-len(sizes) :]
    found = None
    for place in np.ndindex(*attributes["kernel_shape"]):
        starts = np.multiply(place, attributes["dilations"])
        ends = starts + np.multiply(np.subtract(results, 1), steps) + 1
        lists = [w.const(each, np.int64) for each in (starts, ends)]
        part = w.node("Slice", [name, *lists, axes, w.const(steps, np.int64)])
        found = part if found is None else w.node("Add", [found, part])
    return found


EMITTERS = {
    "reduce_window_max": pool(1),
    "reduce_window_min": pool(-1),
    "reduce_window_sum": _pool_sum,
}
