"""`fold`: moves per-channel affine maps into the convolution or dense layer before them.

BatchNorm in inference, biases and scales are y · s + t with one s and t per channel. A layer
followed by such maps is one layer with kernel · s and bias t; the graph loses their ops.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from hcjax.graph.axes import channel_axis, kernel_axis
from hcjax.graph.constants import evaluate_constants, source_path, trained_numbers
from hcjax.graph.model import LAYERS, Graph, Model, Op, layer_of, live_ops, unused_name
from hcjax.graph.ops.table import defined, has


def fold(model: Model) -> Model:
    """Returns the model with per-channel affine maps folded into the layers before them.

    Args:
      model: from `trace`. Its parameters are evaluated: the new ones no longer follow them.

    Returns:
      A Model of the same function, up to float rounding. Its parameters are `LAYER/kernel` and,
      where something was folded, `LAYER/bias`; what else read parameters keeps its path, or is
      named after its op. A kernel that several layers share is left as it is.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> params = {"conv": {"kernel": jnp.ones((4, 3))}, "scale": jnp.full(3, 2.0)}
      >>> def apply(params, x):
      ...   return x @ params["conv"]["kernel"] * params["scale"] - 1.0
      >>> folded = fold(trace(apply, params, jnp.ones((1, 4))))
      >>> [op.kind for op in folded.graph.ops], sorted(folded.params)
      (['dot_general'], ['conv/bias', 'conv/kernel'])
      >>> folded.apply(folded.params, jnp.ones((1, 4))).tolist()
      [[7.0, 7.0, 7.0]]
    """
    ops, values, stretched = evaluate_constants(model)
    known = values | stretched
    readers: dict[int, int] = {model.graph.logits: 1}
    for op in ops:
        for i in op.inputs:
            readers[i] = readers.get(i, 0) + 1
    holding: dict[int, _Layer] = {}  # by the number that now holds its output
    kept: list[Op | _Layer] = []
    for op in ops:
        inside = [i for i in op.inputs if i not in known]
        if op.kind in LAYERS and len(inside) == 1 and channel_axis(op, values) is not None:
            kernel = next(i for i in op.inputs if i in values)
            if readers[kernel] == 1:
                bias = values[op.inputs[2]] if len(op.inputs) == 3 else 0.0  # folded before
                layer = _Layer(op, kernel, 1.0, np.asarray(bias, np.float64), op.output, False)
                holding[op.output] = layer
                kept.append(layer)
                continue
        found = holding.get(inside[0]) if has(op, "affine") and len(inside) == 1 else None
        if found is not None and readers[inside[0]] == 1:
            new = _folded(found, op, inside[0], known)
            if new is not None:
                del holding[inside[0]]
                holding[new.output] = new
                kept[kept.index(found)] = new
                continue
        kept.append(op)
    return _rebuilt(model, live_ops(kept, model.graph.logits), values)


class _Layer(NamedTuple):
    """A layer and what follows it: y · scale + shift, per channel, held by number `output`."""

    op: Op
    kernel: int
    scale: Any
    shift: Any
    output: int
    changed: bool

    @property
    def inputs(self) -> tuple[int, ...]:
        """What the layer reads."""
        return self.op.inputs

    @property
    def outputs(self) -> tuple[int, ...]:
        """The one number it computes."""
        return (self.output,)


def _per_channel(value: Any, op: Op, axis: int) -> np.ndarray | None:
    """Returns what a constant is for each channel, float64; None if it varies otherwise."""
    value = np.asarray(value, np.float64)
    if value.ndim == 0:
        return value
    if value.ndim != len(op.shape):
        return None
    moved = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)
    return moved[:, 0] if (moved == moved[:, :1]).all() else None


def _folded(layer: _Layer, op: Op, inside: int, values: dict[int, Any]) -> _Layer | None:
    """Returns a layer with an affine op taken in; None if the op is not per channel."""
    scale, shift = layer.scale, layer.shift
    if op.dtype != layer.op.dtype or op.shape != layer.op.shape:
        return None
    if op.kind == "neg":
        return layer._replace(scale=-scale, shift=-shift, output=op.output, changed=True)
    constant = next(i for i in op.inputs if i != inside)
    c = _per_channel(values[constant], op, channel_axis(layer.op, values))
    first = op.inputs[0] == constant
    if c is None or (op.kind == "div" and first):
        return None
    match op.kind:
        case "add":
            shift = shift + c
        case "sub":
            scale, shift = (-scale, c - shift) if first else (scale, shift - c)
        case "mul":
            scale, shift = scale * c, shift * c
        case "div":
            scale, shift = scale / c, shift / c
    return layer._replace(scale=scale, shift=shift, output=op.output, changed=True)


def _rebuilt(model: Model, kept: list[Op | _Layer], values: dict[int, Any]) -> Model:
    """Returns a Model of what is left, its parameters renamed."""
    paths = {number: path for path, number in model.graph.params.items()}
    trained = trained_numbers(model)
    following = max([*values, *(o.output for o in kept), model.graph.images], default=0) + 1
    ops, params, numbers, constants = [], {}, {}, {}

    def keep(number: int, wanted: str) -> None:
        if number in constants or number in numbers.values():
            return
        if number in trained:
            name = unused_name(wanted, params)
            params[name], numbers[name] = values[number], number
        else:
            constants[number] = values[number]

    for i, item in enumerate(kept):
        if isinstance(item, Op):
            for number in item.inputs:
                if number in values:
                    keep(number, paths.get(number, f"{item.kind}_{i}/value"))
            ops.append(item)
            continue
        layer, op = item, item.op
        base = layer_of(source_path(model, layer.kernel, paths)) or f"{op.kind}_{i}"
        if not layer.changed:
            keep(layer.kernel, f"{base}/kernel")
            for number in op.inputs[2:]:
                keep(number, f"{base}/bias")
            ops.append(op)
            continue
        kernel = np.asarray(values[layer.kernel], np.float64)
        axis = kernel_axis(op, values)
        shape = [-1 if a == axis else 1 for a in range(kernel.ndim)]
        channels = kernel.shape[axis]
        scaled = kernel * np.broadcast_to(layer.scale, channels).reshape(shape)
        bias = np.broadcast_to(layer.shift, channels)
        dtype = values[layer.kernel].dtype
        kernel_number, bias_number = following, following + 1
        following += 2
        new = ((kernel_number, "kernel", scaled), (bias_number, "bias", bias))
        for number, kind, value in new:
            name = unused_name(f"{base}/{kind}", params)
            params[name], numbers[name] = jnp.asarray(value, dtype), number
        inputs = tuple(kernel_number if n == layer.kernel else n for n in op.inputs[:2])
        about = {"inputs": (*inputs, bias_number), "outputs": (layer.output,)}
        with_bias = op.params | {"bias_axis": channel_axis(op, values)}
        ops.append(defined(op, **about, params=with_bias))
    frozen = tuple(held for held in model.graph.frozen if held[1] in constants)
    graph = Graph(tuple(ops), model.graph.images, model.graph.logits, numbers, constants, frozen)
    return model.replace(graph=graph, params=params, paths=tuple(sorted(params)))
