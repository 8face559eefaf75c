"""Convolutions and dense products in float, as ONNX nodes."""

from __future__ import annotations

import numpy as np

from hcjax.export.onnx.movement import padded
from hcjax.export.onnx.writer import Writer
from hcjax.graph.model import Op

_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def convolution(w: Writer, op: Op) -> None:
    """Writes a Conv, or a ConvTranspose where the input is spread out."""
    x, kernel, *bias = op.inputs
    numbers = op.params["dimension_numbers"]
    transposed = _transposed(w, op)
    if transposed is not None:
        kind, attributes, order = "ConvTranspose", transposed, (1, 0)
        order = (numbers.rhs_spec[1], numbers.rhs_spec[0], *numbers.rhs_spec[2:])
        flipped = tuple(slice(None, None, -1) if a in numbers.rhs_spec[2:] else slice(None)
                        for a in range(len(order)))  # fmt: skip
        weights = w.const(w.constant(kernel)[flipped].transpose(order))
        name = w.get(x, numbers.lhs_spec)
    else:
        kind, (name, attributes) = "Conv", spread(w, op, w.const(0, w.dtype(x)))
        weights = w.get(kernel, numbers.rhs_spec)
    names = [name, weights, *(w.get(i) for i in bias)]
    w.put(op.output, w.node(kind, names, **attributes), numbers.out_spec)


def spread(w: Writer, op: Op, zero: str) -> tuple[str, dict]:
    """Returns the input of a convolution, padded where Conv cannot, and Conv's attributes."""
    x, params, numbers = op.inputs[0], op.params, op.params["dimension_numbers"]
    name, pads = w.get(x, numbers.lhs_spec), list(params["padding"])
    dilations = params["lhs_dilation"]
    if any(n > 1 for n in dilations) or any(p < 0 for pair in pads for p in pair):
        config = [(0, 0, 0)] * 2
        config += [(*pair, n - 1) for pair, n in zip(pads, dilations, strict=True)]
        name = padded(w, name, [w.shape(x)[a] for a in numbers.lhs_spec], config, zero)
        pads = [(0, 0)] * len(pads)
    return name, {
        "strides": list(params["window_strides"]),
        "pads": [low for low, _ in pads] + [high for _, high in pads],
        "dilations": list(params["rhs_dilation"]),
        "group": params["feature_group_count"],
    }


def _transposed(w: Writer, op: Op) -> dict | None:
    """Returns the attributes of a ConvTranspose with the same result; None if there is none."""
    params, kernel = op.params, w.constant(op.inputs[1])
    steps = params["lhs_dilation"]
    plain = set(params["window_strides"]) == {1} and params["feature_group_count"] == 1
    if kernel is None or not plain or set(steps) == {1}:
        return None
    spatial = [kernel.shape[a] for a in params["dimension_numbers"].rhs_spec[2:]]
    reach = [d * (k - 1) for d, k in zip(params["rhs_dilation"], spatial, strict=True)]
    lows, highs = ([n - pad[side] for n, pad in zip(reach, params["padding"], strict=True)]
                   for side in (0, 1))  # fmt: skip
    extra = [max(-high, 0) for high in highs]
    if min(lows) < 0 or any(e >= s for e, s in zip(extra, steps, strict=True)):
        return None
    return {
        "strides": list(steps),
        "dilations": list(params["rhs_dilation"]),
        "pads": lows + [max(high, 0) for high in highs],
        "output_padding": extra,
    }


def dense(w: Writer, op: Op) -> None:
    """Writes a Gemm, a MatMul, or an Einsum for products of other axes."""
    x, y, *bias = op.inputs
    if is_matrix(w, op):
        names = [rows(w, x), kernel_rows(w, x, y), *(w.get(i) for i in bias)]
        kind = "Gemm" if len(op.shape) == 2 and bias else "MatMul"
        name = w.node(kind, names if kind == "Gemm" else names[:2])
        bias = [] if kind == "Gemm" else bias
        w.put(op.output, name)
    else:
        name = product(w, op, w.get(x), w.get(y))
        w.put(op.output, name)
    if bias:
        shape = [-1 if a == op.params["bias_axis"] else 1 for a in range(len(op.shape))]
        shaped = w.node("Reshape", [w.get(bias[0]), w.const(shape, np.int64)])
        w.put(op.output, w.node("Add", [name, shaped]))


def is_matrix(w: Writer, op: Op) -> bool:
    """Returns whether an op is x[..., K] @ y[K, M]."""
    (left, right), (batch, _) = op.params["dimension_numbers"]
    shapes = [len(w.shape(i)) for i in op.inputs[:2]]
    return not batch and tuple(left) == (shapes[0] - 1,) and shapes[1] == 2 and tuple(right) == (0,)


def kernel_outputs(op: Op) -> int:
    """Returns the axis of a kernel with the output channels, of a convolution or x @ y[K, M]."""
    return 1 if op.kind == "dot_general" else op.params["dimension_numbers"].rhs_spec[0]


def rows(w: Writer, number: int) -> str:
    """Returns the name of a dense layer's input, its rows in whatever order they lie."""
    value = w.value(number)
    return w.get(number) if value.rows is None else value.name


def kernel_rows(w: Writer, x: int, kernel: int) -> str:
    """Returns the name of a dense layer's kernel, its rows in the order of the input's."""
    order = None if w.constant(x) is not None else w.value(x).rows
    return w.get(kernel) if order is None else w.const(w.constant(kernel)[order])


def product(w: Writer, op: Op, x: str, y: str) -> str:
    """Adds a product of two arrays, in their own order of axes."""
    (left, right), (batch_x, batch_y) = op.params["dimension_numbers"]
    letters = iter(_LETTERS)
    first = [next(letters) for _ in w.shape(op.inputs[0])]
    second = [next(letters) for _ in w.shape(op.inputs[1])]
    for a, b in (*zip(left, right, strict=True), *zip(batch_x, batch_y, strict=True)):
        second[b] = first[a]
    result = [first[a] for a in batch_x]
    result += [v for a, v in enumerate(first) if a not in (*left, *batch_x)]
    result += [v for b, v in enumerate(second) if b not in (*right, *batch_y)]
    equation = f"{''.join(first)},{''.join(second)}->{''.join(result)}"
    return w.node("Einsum", [x, y], equation=equation)


EMITTERS = {"conv_general_dilated": convolution, "dot_general": dense}
