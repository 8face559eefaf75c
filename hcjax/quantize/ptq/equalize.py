"""`equalize`: cross-layer equalization, which gives the channels of a kernel similar ranges.

relu, pooling, padding with 0 and reshaping are positively homogeneous: f(s x) = s f(x) for s > 0.
So dividing a layer's output channels by s and multiplying the next layer's weights for them by s
leaves the function unchanged.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph.axes import channel_axis, kernel_axis, layer_axes
from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import LAYERS, Model, Op, consumers, is_quantized
from hcjax.graph.ops.table import has

_CONVERGED = 1e-3  # greatest |log s| at which the iteration ends
_TOLERANCE = 1e-4  # of a channel's index, as a fraction of the number of channels


class Pair(NamedTuple):
    """Two layers with only positively homogeneous ops between.

    first, second: numbers of their kernels. axis: of the output channels in the first kernel. bias:
    number of the first layer's bias, or None. channels: int[...], broadcastable to the second
    kernel: the channel of the first layer that each weight reads; -1 for none.
    """

    first: int
    axis: int
    bias: int | None
    second: int
    channels: np.ndarray


def equalize(model: Model, *, iterations: int = 50) -> Model:
    """Returns the same function with kernels whose channels have similar ranges.

    For each two layers with only positively homogeneous ops between, and each channel i, with
    r1 = max |W1[i]| and r2 = max |W2[:, i]|: W1[i] / s, b1[i] / s, W2[:, i] · s, where
    s = sqrt(r1 · r2) / r2. Iterates until it converges, since a layer is the second of one pair and
    the first of the next.

    Args:
      model: in float, from `fold`: a bias or scale in an op of its own ends a pair.
      iterations: maximum number, >= 1; it stops earlier once every |log s| < 0.001.

    Returns:
      Model with the same ops and, up to float rounding, the same logits. Calibrate it again.

    Raises:
      ConfigError: if the model is quantized, or iterations < 1.

    Note:
      Kernels with one scale per channel (`granularity="channel"`) gain little. With one scale per
      kernel, or 4 bits or fewer, the gain can be large.

    Reference:
      Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
      arXiv:1906.04721, section 4.1 and equation 11. Deviations: pooling is allowed
      between the layers; high biases are not absorbed; relu6 is unchanged and ends a pair.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> params = {"a": jnp.array([[8.0, 0.5]]), "b": jnp.array([[1.0], [2.0]])}
      >>> model = trace(lambda p, x: jax.nn.relu(x @ p["a"]) @ p["b"], params, jnp.ones((1, 1)))
      >>> same = equalize(model)
      >>> same.params["a"].round(3).tolist(), same.params["b"].round(3).tolist()
      ([[2.828..., 1.0]], [[2.828...], [1.0]])
    """
    if iterations < 1:
        raise ConfigError(f"iterations must be >= 1, got {iterations}")
    if is_quantized(model):
        raise ConfigError("the model is quantized: equalize it before calibrate and fake_quantize")
    layer_pairs = pairs(model)
    leaves = model.leaves(model.params)
    values = model.graph.constants | {n: leaves[p] for p, n in model.graph.params.items()}
    scaled = {n for p in layer_pairs for n in (p.first, p.second, p.bias) if n is not None}
    arrays = {n: np.asarray(values[n], np.float64) for n in scaled}
    for _ in range(iterations):
        change = max((_equalize_pair(pair, arrays) for pair in layer_pairs), default=0.0)
        if change < _CONVERGED:
            break
    new = {n: jnp.asarray(value, values[n].dtype) for n, value in arrays.items()}
    constants = model.graph.constants | {n: v for n, v in new.items() if n in model.graph.constants}
    params = {p: new.get(n, leaves[p]) for p, n in model.graph.params.items()}
    # a new graph, so that ranges of the old channels are refused
    return model.replace(graph=model.graph._replace(constants=constants), params=params)


def pairs(model: Model) -> tuple[Pair, ...]:
    """Returns all pairs of layers that `equalize` scales, in order."""
    ops, values, _ = evaluate_constants(model)
    leaves = {*model.graph.constants, *model.graph.params.values()}
    consumers_of = consumers(model.graph.ops)

    def has_one_consumer(number):
        return len(consumers_of.get(number, ())) == 1 and number not in model.graph.outputs

    def scalable_kernel(op):
        """Returns the number of a layer's kernel; None if it cannot be scaled."""
        kernels = [i for i in op.inputs[:2] if i in values]
        if op.kind not in LAYERS or len(kernels) != 1 or channel_axis(op, values) is None:
            return None
        return kernels[0] if kernels[0] in leaves and has_one_consumer(kernels[0]) else None

    layer_pairs = []
    for op in ops:
        first = scalable_kernel(op)
        bias = op.inputs[2] if first is not None and len(op.inputs) == 3 else None
        if first is None or (bias is not None and not (bias in leaves and has_one_consumer(bias))):
            continue
        number, between = op.output, []
        while has_one_consumer(number):
            (consumer,) = consumers_of[number]
            if (second := scalable_kernel(consumer)) is not None:
                inputs = _input_channels(op, between, values)
                channels = None if inputs is None else _by_weight(consumer, inputs, values)
                if channels is not None:
                    axis = kernel_axis(op, values)
                    layer_pairs.append(Pair(first, axis, bias, second, channels))
                break
            if not _homogeneous(consumer, number, values):
                break
            between.append(consumer)
            number = consumer.output
    return tuple(layer_pairs)


def _homogeneous(op: Op, number: int, values: dict[int, Any]) -> bool:
    """Returns whether an op is positively homogeneous in one of its operands."""
    others = [i for i in op.inputs if i != number]
    if len(op.outputs) != 1 or op.shape[0].q != 1 or any(i not in values for i in others):
        return False
    if op.kind in ("pad", "max", "min"):  # e.g. relu as max(x, 0)
        return all(not np.any(np.asarray(values[i], np.float64)) for i in others)
    if op.kind == "convert_element_type":
        return bool(jnp.issubdtype(op.dtype, jnp.floating))
    floating = jnp.issubdtype(op.dtype, jnp.floating)
    return floating and (has(op, "homogeneous") or (op.kind == "div" and op.inputs[0] == number))


def _input_channels(op: Op, between: list[Op], values: dict[int, Any]) -> np.ndarray | None:
    """Returns the channel of a layer behind each input of the next layer; -1 for none.

    Runs the ops between on three numberings of the channels, each times 1 and times -1. Returns
    None if an input depends on more than one channel.
    """
    axis = channel_axis(op, values)
    shape = op.sizes(1)
    if op.shape[0].q != 1:
        return None
    count = shape[axis]
    ids = np.arange(1.0, count + 1)
    # the descending numbering detects a maximum over channels, the shuffled one a mean
    probes = [ids, ids[::-1], np.random.default_rng(0).permutation(ids)]
    along = [-1 if a == axis else 1 for a in range(len(shape))]
    signed = [sign * p for sign in (1, -1) for p in (np.ones(count), *probes)]
    images = np.concatenate([np.broadcast_to(p.reshape(along), shape) for p in signed])

    def run(x):
        number, x = op.output, x.astype(op.dtype)
        for each in between:
            operands = [x if i == number else values[i] for i in each.inputs]
            x, number = each.run_one(len(signed), *operands), each.output
        return x.astype(jnp.float32)

    outputs = np.asarray(jax.jit(run)(images), np.float64)
    channels = np.full(outputs.shape[1:], -1)
    for ones, *numbered in outputs.reshape(2, 4, *outputs.shape[1:]):
        nonzero = ones != 0
        ratios = [np.divide(y, ones, where=nonzero, out=np.zeros_like(ones)) for y in numbered]
        channel = np.clip(np.round(ratios[0]).astype(int) - 1, 0, count - 1)
        agree = [
            np.abs(ratio - probe[channel]) < _TOLERANCE * count
            for ratio, probe in zip(ratios, probes, strict=True)
        ]
        agree.append((channels < 0) | (channels == channel))
        if not np.logical_and.reduce(agree)[nonzero].all():
            return None
        channels = np.where(nonzero, channel, channels)
    return channels[None]


def _by_weight(op: Op, inputs: np.ndarray, values: dict[int, Any]) -> np.ndarray | None:
    """Returns the channel that each weight of a layer reads, from the channels of its inputs.

    Returns None if a weight reads several channels.
    """
    axes = layer_axes(op, values)
    order = [a for a, _ in axes.summed]
    features = _reduce_to_features(np.moveaxis(inputs, order, range(len(order))), len(order))
    if features is None:
        return None
    channels, groups = features[None], op.params.get("feature_group_count", 1)
    if groups > 1:  # of a convolution: each output reads the inputs of its own group
        kernel = np.shape(next(values[i] for i in op.inputs[1::-1] if i in values))
        out_size, in_size = (kernel[a] for a in axes.order[:2])
        group = np.arange(out_size)[:, None] // (out_size // groups)
        channels = features[group * in_size + np.arange(in_size)]
    channels = channels.reshape(*channels.shape, *[1] * len(axes.taps))
    return channels.transpose(np.argsort(axes.order))


def _reduce_to_features(channels: np.ndarray, ndim: int) -> np.ndarray | None:
    """Returns the channel at each index of the first axes; None if it varies along the others."""
    flat = channels.reshape(*channels.shape[:ndim], -1)
    greatest = flat.max(-1)
    return greatest if ((flat == greatest[..., None]) | (flat < 0)).all() else None


def _equalize_pair(pair: Pair, arrays: dict[int, np.ndarray]) -> float:
    """Scales the channels of a pair in place, and returns the greatest |log s|."""
    first, second = arrays[pair.first], arrays[pair.second]
    others = tuple(a for a in range(first.ndim) if a != pair.axis)
    r1 = np.abs(first).max(others)
    r2 = np.zeros(len(r1) + 1)
    np.maximum.at(r2, np.broadcast_to(pair.channels, second.shape), np.abs(second))
    r2 = r2[:-1]
    s = np.sqrt(np.divide(r1, r2, where=(r1 > 0) & (r2 > 0), out=np.ones_like(r1)))
    along = [-1 if a == pair.axis else 1 for a in range(first.ndim)]
    arrays[pair.first] = first / s.reshape(along)
    arrays[pair.second] = second * np.append(s, 1.0)[pair.channels]
    if pair.bias is not None:
        arrays[pair.bias] = arrays[pair.bias] / s
    return float(np.abs(np.log(s)).max(initial=0))
