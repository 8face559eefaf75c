"""`equalize`: channels between two layers scaled so that a kernel's are about equally large.

relu, pooling, padding with 0 and reshaping are positively homogeneous: f(s x) = s f(x) for s > 0. A
layer's channels can be divided by s, and what the next one reads of them multiplied, for nothing.
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

_CLOSE = 1e-3  # of a scale to 1, where iterating ends
_EXACT = 1e-4  # of the number of channels: how well one is known again


class Pair(NamedTuple):
    """Two layers with nothing but positively homogeneous ops between.

    first, second: numbers of their kernels. axis: of the channels in the first. bias: number of the
    first's, or None. channels: int[...], which broadcasts to the second kernel: which channel of
    the first each of its weights reads; -1 for none.
    """

    first: int
    axis: int
    bias: int | None
    second: int
    channels: np.ndarray


def equalize(model: Model, *, iterations: int = 50) -> Model:
    """Returns the same function with kernels whose channels are about equally large.

    For each two layers with nothing but positively homogeneous ops between, and each channel i,
    with r1 = max |W1[i]| and r2 = max |W2[:, i]|: W1[i] / s, b1[i] / s, W2[:, i] · s, where
    s = sqrt(r1 · r2) / r2. Over and over, as a layer is the second of one pair and the first of
    the next.

    Args:
      model: in float, from `fold`: a bias or scale that is an op of its own ends a pair.
      iterations: at most, >= 1; it ends where every s is 1 to a thousandth.

    Returns:
      Model of the same graph and, up to float rounding, the same logits. Calibrate it anew.

    Raises:
      ConfigError: if the model is quantized, or iterations < 1.

    Note:
      Kernels with a step per channel (`granularity="channel"`) gain little; with one step for all,
      and for 4 bits or fewer, it can be what makes them usable.

    Reference:
      Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction", 2019,
      arXiv:1906.04721, section 4.1 and equation 11. Deviations: pooling may stand between; high
      biases are not absorbed; relu6 stays what it is, and ends a pair.

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
    found = pairs(model)
    leaves = model.leaves(model.params)
    known = model.graph.constants | {n: leaves[p] for p, n in model.graph.params.items()}
    touched = {n for p in found for n in (p.first, p.second, p.bias) if n is not None}
    arrays = {n: np.asarray(known[n], np.float64) for n in touched}
    for _ in range(iterations):
        furthest = max((_equalized(pair, arrays) for pair in found), default=0.0)
        if furthest < _CLOSE:
            break
    new = {n: jnp.asarray(value, known[n].dtype) for n, value in arrays.items()}
    constants = model.graph.constants | {n: v for n, v in new.items() if n in model.graph.constants}
    params = {p: new.get(n, leaves[p]) for p, n in model.graph.params.items()}
    # another graph than before: ranges of the old channels are not those of the new ones
    return model.replace(graph=model.graph._replace(constants=constants), params=params)


def pairs(model: Model) -> tuple[Pair, ...]:
    """Returns every two layers whose channels `equalize` scales, in order."""
    ops, values, _ = evaluate_constants(model)
    leaves = {*model.graph.constants, *model.graph.params.values()}
    read_by = consumers(model.graph.ops)

    def alone(number):
        return len(read_by.get(number, ())) == 1 and number != model.graph.logits

    def layer(op):
        """Returns the number of a layer's kernel, if it can be scaled; None otherwise."""
        kernels = [i for i in op.inputs[:2] if i in values]
        if op.kind not in LAYERS or len(kernels) != 1 or channel_axis(op, values) is None:
            return None
        return kernels[0] if kernels[0] in leaves and alone(kernels[0]) else None

    found = []
    for op in ops:
        first = layer(op)
        bias = op.inputs[2] if first is not None and len(op.inputs) == 3 else None
        if first is None or (bias is not None and not (bias in leaves and alone(bias))):
            continue
        number, between = op.output, []
        while alone(number):
            (reader,) = read_by[number]
            if (second := layer(reader)) is not None:
                seen = _channels(op, between, values)
                channels = None if seen is None else _by_weight(reader, seen, values)
                if channels is not None:
                    axis = kernel_axis(op, values)
                    found.append(Pair(first, axis, bias, second, channels))
                break
            if not _homogeneous(reader, number, values):
                break
            between.append(reader)
            number = reader.output
    return tuple(found)


def _homogeneous(op: Op, number: int, values: dict[int, Any]) -> bool:
    """Returns whether scaling what an op reads scales what it gives alike."""
    others = [i for i in op.inputs if i != number]
    if len(op.outputs) != 1 or op.shape[0].q != 1 or any(i not in values for i in others):
        return False
    if op.kind in ("pad", "max", "min"):  # relu, as some write it
        return all(not np.any(np.asarray(values[i], np.float64)) for i in others)
    if op.kind == "convert_element_type":
        return bool(jnp.issubdtype(op.dtype, jnp.floating))
    floating = jnp.issubdtype(op.dtype, jnp.floating)
    return floating and (has(op, "homogeneous") or (op.kind == "div" and op.inputs[0] == number))


def _channels(op: Op, between: list[Op], values: dict[int, Any]) -> np.ndarray | None:
    """Returns which channel of a layer each number comes from that the next one reads; -1: none.

    Seen from what the ops between make of three numberings of the channels, each times 1 and times
    -1; None where a number comes from more than one channel.
    """
    axis = channel_axis(op, values)
    shape = op.sizes(1)
    if op.shape[0].q != 1:
        return None
    count = shape[axis]
    ids = np.arange(1.0, count + 1)
    # a greatest number gives itself away among the descending, a mean among the shuffled
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

    seen = np.asarray(jax.jit(run)(images), np.float64)
    which = np.full(seen.shape[1:], -1)
    for one, *numbered in seen.reshape(2, 4, *seen.shape[1:]):
        some = one != 0
        found = [np.divide(y, one, where=some, out=np.zeros_like(one)) for y in numbered]
        here = np.clip(np.round(found[0]).astype(int) - 1, 0, count - 1)
        same = [np.abs(f - p[here]) < _EXACT * count for f, p in zip(found, probes, strict=True)]
        same.append((which < 0) | (which == here))
        if not np.logical_and.reduce(same)[some].all():
            return None
        which = np.where(some, here, which)
    return which[None]


def _by_weight(op: Op, seen: np.ndarray, values: dict[int, Any]) -> np.ndarray | None:
    """Returns, for the weights of a layer, which channel they read, of those that its input holds.

    None where a weight reads several.
    """
    axes = layer_axes(op, values)
    order = [a for a, _ in axes.summed]
    features = _alike(np.moveaxis(seen, order, range(len(order))), len(order))
    if features is None:
        return None
    which, groups = features[None], op.params.get("feature_group_count", 1)
    if groups > 1:  # of a convolution: each output reads the inputs of its own group
        kernel = np.shape(next(values[i] for i in op.inputs[1::-1] if i in values))
        outputs, inputs = (kernel[a] for a in axes.order[:2])
        group = np.arange(outputs)[:, None] // (outputs // groups)
        which = features[group * inputs + np.arange(inputs)]
    which = which.reshape(*which.shape, *[1] * len(axes.taps))
    return which.transpose(np.argsort(axes.order))


def _alike(seen: np.ndarray, kept: int) -> np.ndarray | None:
    """Returns the channel at each place of the first axes; None if it differs along the others."""
    flat = seen.reshape(*seen.shape[:kept], -1)
    most = flat.max(-1)
    return most if ((flat == most[..., None]) | (flat < 0)).all() else None


def _equalized(pair: Pair, arrays: dict[int, np.ndarray]) -> float:
    """Scales the channels of a pair in place, and returns how far the furthest scale is from 1."""
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
