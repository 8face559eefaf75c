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
from hcjax.graph.interface import names
from hcjax.graph.model import LAYERS, Graph, Model, Op, layer_of, live_ops, unused_name
from hcjax.graph.ops.table import defined, has


def fold(model: Model) -> Model:
    """Returns the model with per-channel affine maps folded into the layers before them.

    Args:
      model: from `trace`. The new parameters are evaluated, and no longer follow the old ones.

    Returns:
      A Model of the same function, up to float rounding. Its parameters are `LAYER/kernel` and,
      where an op was folded, `LAYER/bias`. All other parameters keep their paths, or are named
      after the op that reads them. A kernel that several layers share does not change.

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
    ops, values, batch_shaped = evaluate_constants(model)
    constants = values | batch_shaped
    uses: dict[int, int] = dict.fromkeys(model.graph.outputs, 1)
    for op in ops:
        for i in op.inputs:
            uses[i] = uses.get(i, 0) + 1
    pending: dict[int, _Layer] = {}  # by the number of its output so far
    items: list[Op | _Layer] = []
    for op in ops:
        variables = [i for i in op.inputs if i not in constants]
        if op.kind in LAYERS and len(variables) == 1 and channel_axis(op, values) is not None:
            kernel = next(i for i in op.inputs if i in values)
            if uses[kernel] == 1:
                bias = values[op.inputs[2]] if len(op.inputs) == 3 else 0.0  # of an earlier fold
                layer = _Layer(op, kernel, 1.0, np.asarray(bias, np.float64), op.output, False)
                pending[op.output] = layer
                items.append(layer)
                continue
        layer = pending.get(variables[0]) if has(op, "affine") and len(variables) == 1 else None
        if layer is not None and uses[variables[0]] == 1:
            new = _fold_op(layer, op, variables[0], constants)
            if new is not None:
                del pending[variables[0]]
                pending[new.output] = new
                items[items.index(layer)] = new
                continue
        items.append(op)
    return _rebuild(model, live_ops(items, model.graph.outputs), values)


class _Layer(NamedTuple):
    """A layer and the affine maps behind it: number `output` is y · scale + shift, per channel."""

    op: Op
    kernel: int
    scale: Any
    shift: Any
    output: int
    changed: bool

    @property
    def inputs(self) -> tuple[int, ...]:
        """Numbers of the layer's operands."""
        return self.op.inputs

    @property
    def outputs(self) -> tuple[int, ...]:
        """The number of its one result."""
        return (self.output,)


def _extract_channels(value: Any, op: Op, axis: int) -> np.ndarray | None:
    """Returns a constant as one float64 per channel; None if it varies along another axis."""
    value = np.asarray(value, np.float64)
    if value.ndim == 0:
        return value
    if value.ndim != len(op.shape):
        return None
    moved = np.moveaxis(value, axis, 0).reshape(value.shape[axis], -1)
    return moved[:, 0] if (moved == moved[:, :1]).all() else None


def _fold_op(layer: _Layer, op: Op, variable: int, constants: dict[int, Any]) -> _Layer | None:
    """Folds an affine op into a layer; returns None if the op is not per channel."""
    scale, shift = layer.scale, layer.shift
    if op.dtype != layer.op.dtype or op.shape != layer.op.shape:
        return None
    if op.kind == "neg":
        return layer._replace(scale=-scale, shift=-shift, output=op.output, changed=True)
    number = next(i for i in op.inputs if i != variable)
    constant = _extract_channels(constants[number], op, channel_axis(layer.op, constants))
    constant_first = op.inputs[0] == number
    if constant is None or (op.kind == "div" and constant_first):
        return None
    match op.kind:
        case "add":
            shift = shift + constant
        case "sub":
            scale, shift = (
                (-scale, constant - shift) if constant_first else (scale, shift - constant)
            )
        case "mul":
            scale, shift = scale * constant, shift * constant
        case "div":
            scale, shift = scale / constant, shift / constant
    return layer._replace(scale=scale, shift=shift, output=op.output, changed=True)


def _rebuild(model: Model, items: list[Op | _Layer], values: dict[int, Any]) -> Model:
    """Builds the Model of the folded layers and the other ops, with its parameters renamed."""
    paths = {number: path for path, number in model.graph.params.items()}
    trained = trained_numbers(model)
    next_number = model.graph.last + 1
    ops, params, numbers, constants = [], {}, {}, {}

    def store(number: int, name: str) -> None:
        if number in constants or number in numbers.values():
            return
        if number in trained:
            unused = unused_name(name, params)
            params[unused], numbers[unused] = values[number], number
        else:
            constants[number] = values[number]

    for i, item in enumerate(items):
        if isinstance(item, Op):
            for number in item.inputs:
                if number in values:
                    store(number, paths.get(number, f"{item.kind}_{i}/value"))
            ops.append(item)
            continue
        layer, op = item, item.op
        base = layer_of(source_path(model, layer.kernel, paths)) or f"{op.kind}_{i}"
        if not layer.changed:
            store(layer.kernel, f"{base}/kernel")
            for number in op.inputs[2:]:
                store(number, f"{base}/bias")
            ops.append(op)
            continue
        kernel = np.asarray(values[layer.kernel], np.float64)
        axis = kernel_axis(op, values)
        shape = [-1 if a == axis else 1 for a in range(kernel.ndim)]
        channels = kernel.shape[axis]
        scaled = kernel * np.broadcast_to(layer.scale, channels).reshape(shape)
        bias = np.broadcast_to(layer.shift, channels)
        dtype = values[layer.kernel].dtype
        kernel_number, bias_number = next_number, next_number + 1
        next_number += 2
        arrays = ((kernel_number, "kernel", scaled), (bias_number, "bias", bias))
        for number, kind, value in arrays:
            unused = unused_name(f"{base}/{kind}", params)
            params[unused], numbers[unused] = jnp.asarray(value, dtype), number
        inputs = tuple(kernel_number if n == layer.kernel else n for n in op.inputs[:2])
        fields = {"inputs": (*inputs, bias_number), "outputs": (layer.output,)}
        with_bias = op.params | {"bias_axis": channel_axis(op, values)}
        ops.append(defined(op, **fields, params=with_bias))
    for number, name in zip(model.graph.outputs, names(model.outputs, "logits"), strict=True):
        if number in values:  # an output that no input changes
            store(number, paths.get(number, f"{name}/value"))
    frozen = tuple(entry for entry in model.graph.frozen if entry[1] in constants)
    before = model.graph
    graph = Graph(tuple(ops), before.inputs, before.outputs, numbers, constants, frozen)
    return model.replace(graph=graph, params=params, paths=tuple(sorted(params)))
