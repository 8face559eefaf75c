"""`trim`: removes channels that masks have emptied, without changing the function."""

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
    """Removes the channels that add nothing, or only a constant, to the result of a network.

    A channel is removed if, in each layer that sums over it, its kernel slices are all zero; or if
    its value is zero for all images; or if its value is another constant, e.g. relu(bias) after a
    kernel slice of zeros, and the layer is dense or a convolution without padding: the constant is
    then added to that layer's bias. This is repeated until no channel is removed.

    Args:
      model: from `trace` or `fold`, in float; e.g. with pruned parameters.

    Returns:
      Model of the same logits up to float rounding; the same object if no channel is removed. Each
      layer keeps at least one channel. Its `cut` lists the kept indices of each array, but not the
      constants that were added to biases. A layer without a bias gets its constant as an op after
      it.

    Raises:
      TypeError: if the model is quantized, or not a Model.

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
    """A layer that sums over channels; its kernel, and its other operand for one image.

    Attributes:
      op, side: the op; the index of the kernel among its operands.
      axes: pairs of axes (of the other operand, of the kernel) that are summed over together.
      channels: of each pair of axes.
      kernel, value: the kernel, and the other operand.
      mask: whether each number of `value` depends on the images.
      axis: of the result, along which a removed constant can be added; None: there is none.
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
    coupled = channels(model)
    layers = _layers(model, coupled)
    needed = np.zeros(coupled.count, bool)
    for layer in layers:
        for i in range(len(layer.axes)):
            needed |= _needed(layer, i, coupled.count)
    removed = np.zeros(coupled.count, bool)
    for group in coupled.groups:
        unused = group.channels[~needed[group.channels]]
        if len(unused) == len(group.channels):
            unused = unused[1:]  # no array may become empty
        removed[unused] = True
    if not removed.any():
        return model
    smaller = without(model, coupled, removed)
    for layer in layers:
        if layer.axis is not None and (offset := _offset(layer, removed)).any():
            remains = ~removed[coupled.axes[layer.op.output][layer.axis]]
            smaller = _with_offset(smaller, layer.op.output, layer.axis, offset[remains])
    return smaller


def _layers(model: Model, coupled: Channels) -> list[_Layer]:
    """Reads every layer that sums over channels."""
    pairs: dict[int, tuple[Op, list[tuple[int, int]]]] = {}
    for op, axes in coupled.reads:
        pairs.setdefault(op.output, (op, []))[1].append(axes)
    numbers = {i for op, _ in pairs.values() for i in op.inputs[:2]}
    values = varying(model, numbers)
    layers = []
    for op, axes in pairs.values():
        side = 0 if values[op.inputs[1]][1].any() else 1
        other, kernel = op.inputs[1 - side], op.inputs[side]
        value, mask = values[other]
        axes = axes if side else [(b, a) for a, b in axes]
        along = [(coupled.axes[other][a], coupled.axes[kernel][b]) for a, b in axes]
        mask = np.broadcast_to(mask, value.shape)
        weights = values[kernel][0]
        axis = channel_axis(op, {kernel: weights}) if _inside(op) else None
        layers.append(_Layer(op, side, axes, along, weights, value, mask, axis))
    return layers


def _inside(op: Op) -> bool:
    """Tells whether no window has padding, so that a constant operand gives a constant result."""
    borders = (n for pair in op.params.get("padding", ()) for n in pair)
    return not any(borders) and set(op.params.get("lhs_dilation", ())) <= {1}


def _needed(layer: _Layer, i: int, count: int) -> np.ndarray:
    """Marks the channels that a layer's sum over its i-th axes needs, bool[channels]."""
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


def _offset(layer: _Layer, removed: np.ndarray) -> np.ndarray:
    """Computes what the removed constant channels add to a layer's result, float[O]."""
    mask = np.zeros(layer.value.shape, bool)
    for (axis, _), (along, _) in zip(layer.axes, layer.channels, strict=True):
        mask |= removed[along].reshape([-1 if a == axis else 1 for a in range(mask.ndim)])
    constant = np.where(mask & ~layer.mask, layer.value, 0)
    operands = (constant, layer.kernel)[:: 1 if layer.side else -1]
    result = computes(layer.op.kind, layer.op.params)(1, *map(jnp.asarray, operands))
    return np.moveaxis(np.asarray(result), layer.axis, 0).reshape(result.shape[layer.axis], -1)[
        :, 0
    ]


def _with_offset(model: Model, number: int, axis: int, offset: np.ndarray) -> Model:
    """Adds a constant to a layer's result, along its channels."""
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
    first = graph.last + 1
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
