"""`trim`: channels that masks have emptied, taken out without a change of the function."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from hcjax.graph.axes import channel_axis
from hcjax.graph.coupling.channels import Channels, channels
from hcjax.graph.coupling.liveness import varying
from hcjax.graph.coupling.remove import without
from hcjax.graph.model import Model, Op, plain
from hcjax.graph.ops.table import computes, defined


def trim(model: Model) -> Model:
    """Returns the same function without channels that add nothing, or only a constant, to it.

    A channel goes if in each layer that sums over it its kernel slices are all zero; or its value
    is zero for all images; or its value is another constant, e.g. relu(bias) behind a kernel slice
    that is zero, and the layer is dense or a convolution without padding: the constant then moves
    into the layer's bias. This is repeated until nothing goes.

    Args:
      model: from `trace` or `fold`, in float; e.g. with pruned parameters.

    Returns:
      Model of the same logits up to float rounding; the same Model if nothing goes. Each layer
      keeps a channel at least. Its `cut` says what is left of each array, but for biases that a
      constant moved into: a layer without one of its own has it behind it, as a constant.

    Raises:
      TypeError: if the model is quantized, or no Model.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> params = {"a": jnp.array([[1.0, 0.0, 2.0]]), "b": jnp.array([[1.0], [1.0], [0.0]])}
      >>> model = trace(lambda p, x: (x @ p["a"] + 1.0) @ p["b"], params, jnp.ones((1, 1)))
      >>> small = trim(model)
      >>> small.params["a"].tolist(), small.apply(small.params, jnp.ones((1, 1))).tolist()
      ([[1.0]], [[3.0]])
    """
    while (smaller := _trimmed(model)) is not model:
        model = smaller
    return model


class _Layer(NamedTuple):
    """A layer that sums over channels; its kernel, and its other operand at a batch of one.

    axes: of (the other operand, the kernel), summed over together. channels: those of each of the
    axes. mask: whether a number of the value depends on the images. axis: of the result, along
    which a constant that goes could be added; None: nowhere.
    """

    op: Op
    side: int
    axes: list[tuple[int, int]]
    channels: list[tuple[np.ndarray, np.ndarray]]
    kernel: np.ndarray
    value: np.ndarray
    mask: np.ndarray
    axis: int | None


def _trimmed(model: Model) -> Model:
    found = channels(model)
    read = _layers(model, found)
    needed = np.zeros(found.count, bool)
    for layer in read:
        for i in range(len(layer.axes)):
            needed |= _needed(layer, i, found.count)
    gone = np.zeros(found.count, bool)
    for group in found.groups:
        unused = group.channels[~needed[group.channels]]
        if len(unused) == len(group.channels):
            unused = unused[1:]  # an array of size 0 is none
        gone[unused] = True
    if not gone.any():
        return model
    smaller = without(model, found, gone)
    for layer in read:
        if layer.axis is not None and (offset := _offset(layer, gone)).any():
            stays = ~gone[found.axes[layer.op.output][layer.axis]]
            smaller = _shifted(smaller, layer.op.output, layer.axis, offset[stays])
    return smaller


def _layers(model: Model, found: Channels) -> list[_Layer]:
    pairs: dict[int, tuple[Op, list[tuple[int, int]]]] = {}
    for op, axes in found.reads:
        pairs.setdefault(op.output, (op, []))[1].append(axes)
    numbers = {i for op, _ in pairs.values() for i in op.inputs[:2]}
    values = varying(model, numbers)
    layers_found = []
    for op, axes in pairs.values():
        side = 0 if values[op.inputs[1]][1].any() else 1
        other, kernel = op.inputs[1 - side], op.inputs[side]
        value, mask = values[other]
        axes = axes if side else [(b, a) for a, b in axes]
        along = [(found.axes[other][a], found.axes[kernel][b]) for a, b in axes]
        mask = np.broadcast_to(mask, value.shape)
        weights = values[kernel][0]
        axis = channel_axis(op, {kernel: weights}) if _inside(op) else None
        layers_found.append(_Layer(op, side, axes, along, weights, value, mask, axis))
    return layers_found


def _inside(op: Op) -> bool:
    """Returns whether a layer's windows lie in the image, so that a constant gives a constant."""
    borders = (n for pair in op.params.get("padding", ()) for n in pair)
    return not any(borders) and set(op.params.get("lhs_dilation", ())) <= {1}


def _needed(layer: _Layer, i: int, count: int) -> np.ndarray:
    """Returns bool[channels]: which add to a layer's sum over its i-th axes what must stay."""
    axis, kernel_axis = layer.axes[i]
    counts, reads = np.zeros(count, bool), np.zeros(count, bool)
    value, mask = (np.moveaxis(x, axis, 0) for x in (layer.value, layer.mask))
    varies, nonzero = (x.reshape(len(x), -1).any(1) for x in (mask, value != 0))
    if layer.axis is not None:
        summed = {a for a, _ in layer.axes}
        free = [a for a in range(value.ndim) if a not in summed]
        first = layer.value[
            tuple(slice(1) if a in free else slice(None) for a in range(value.ndim))
        ]
        uneven = np.moveaxis(layer.value != first, axis, 0).reshape(len(value), -1).any(1)
        nonzero = uneven
    np.logical_or.at(counts, layer.channels[i][0], varies | nonzero)
    weights = np.moveaxis(layer.kernel != 0, kernel_axis, 0)
    np.logical_or.at(reads, layer.channels[i][1], weights.reshape(len(weights), -1).any(1))
    return counts & reads


def _offset(layer: _Layer, gone: np.ndarray) -> np.ndarray:
    """Returns float[O]: what the constants among the channels that go add to a layer's result."""
    leaves = np.zeros(layer.value.shape, bool)
    for (axis, _), (along, _) in zip(layer.axes, layer.channels, strict=True):
        leaves |= gone[along].reshape([-1 if a == axis else 1 for a in range(leaves.ndim)])
    constant = np.where(leaves & ~layer.mask, layer.value, 0)
    operands = (constant, layer.kernel)[:: 1 if layer.side else -1]
    result = computes(layer.op.kind, layer.op.params)(1, *map(jnp.asarray, operands))
    return np.moveaxis(np.asarray(result), layer.axis, 0).reshape(result.shape[layer.axis], -1)[
        :, 0
    ]


def _shifted(model: Model, number: int, axis: int, offset: np.ndarray) -> Model:
    """Returns the model with a constant added to a layer's result along its channels."""
    graph = model.graph
    at = next(i for i, op in enumerate(graph.ops) if op.output == number)
    op = graph.ops[at]
    readers = [i for each in graph.ops for i in each.inputs]
    paths = {n: path for path, n in graph.params.items()}
    bias = op.inputs[2] if len(op.inputs) == 3 and readers.count(op.inputs[2]) == 1 else None
    if bias in paths:
        path = paths[bias]
        params = model.leaves(model.params)
        return model.replace(params=params | {path: params[path] + jnp.asarray(offset)})
    outputs = [o for each in graph.ops for o in each.outputs]
    first = max([*outputs, *paths, *graph.constants, graph.images]) + 1
    constant, spread, before = first, first + 1, first + 2
    about = {"shape": plain(op.shape), "broadcast_dimensions": (axis,)}
    added = (
        op._replace(outputs=(before,)),
        defined(Op("broadcast_in_dim", (constant,), (spread,), *op[3:6], None, about)),
        defined(Op("add", (before, spread), (number,), *op[3:6], None, {})),
    )
    constants = graph.constants | {constant: jnp.asarray(offset, op.dtype)}
    changed = (*graph.ops[:at], *added, *graph.ops[at + 1 :])
    return model.replace(graph=graph._replace(ops=changed, constants=constants))
