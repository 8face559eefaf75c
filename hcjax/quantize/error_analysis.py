"""`error_analysis`: the quantization error of each layer, and its effect on accuracy.

In: a Model in float, the ranges of its activations, examples. Out: for each layer, the SQNR of its
output in the quantized network, and the accuracy lost by quantizing this layer alone.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import text
from hcjax.graph import examples
from hcjax.graph.axes import channel_axis, kernel_axis
from hcjax.graph.model import LAYERS, Model, Op, capture_activations, run
from hcjax.quantize import fake
from hcjax.quantize.calibration.ranges import Ranges
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.spec import QuantSpec, every_layer, with_fields


class LayerError(NamedTuple):
    """One layer.

    name: of its parameters. bits: of its kernel. sqnr: 10 log10(sum of x² / sum of (x - q)²) in dB,
    with x its output in float and q that in the quantized network, both where it is requantized:
    behind the relu and the residual add that follow it; infinite where x = q. drop: loss of
    accuracy with only this layer's kernel and output quantized, not its input; a fraction, negative
    for a gain.
    """

    name: str
    bits: int
    sqnr: float
    drop: float


class ErrorAnalysis(NamedTuple):
    """The rows of a network, in order; printed as a table.

    accuracy: in float. drop: loss of accuracy with all layers quantized. examples: their number.
    """

    rows: tuple[LayerError, ...]
    accuracy: float
    drop: float
    examples: int

    def __repr__(self) -> str:
        lines = [("layer", "bits", "SQNR (dB)", "accuracy drop")]
        lines += [
            (r.name, str(r.bits), f"{r.sqnr:.1f}", f"{100 * r.drop:.2f} %") for r in self.rows
        ]
        lines.append(("all", "", "", f"{100 * self.drop:.2f} %"))
        return text.aligned(lines)


class _Layer(NamedTuple):
    """The numbers of a layer's kernel and of its requantized output, in both graphs."""

    name: str
    bits: int
    kernel: int
    quantized_kernel: int
    kernel_scale: int
    axis: int
    end: int
    quantized_end: int
    scale: int | None  # None for the logits, which stay in float
    zero: int


def error_analysis(
    model: Model,
    ranges: Ranges,
    images: Any,
    labels: Any,
    spec: QuantSpec | None = None,
    *,
    batch_size: int = 250,
    **fields: Any,
) -> ErrorAnalysis:
    """Returns the error that quantization causes in each layer's output, and in accuracy.

    Args:
      model: from `trace`, best through `fold`.
      ranges: from `calibrate` of the same model.
      images: float array [N, ...], N >= 1, normalised as in training; not the test set, if the
        analysis guides a choice.
      labels: int[N], each in [0, K).
      spec, **fields: as in `fake_quantize`, with no layer in float.
      batch_size: images in one call.

    Returns:
      ErrorAnalysis. A layer whose output is not requantized itself has the SQNR of the first
      requantized value behind it.

    Raises:
      ValueError: if the ranges are another model's.
      ConfigError: if the numbers of labels and images differ, a label is not a class, or the spec
        leaves layers in float.
      TypeError: if a field is unknown.

    Note:
      Compiles twice, for any number of layers, and runs the network once for each layer.

    Example:
      >>> from hcjax.quantize.calibration import ranges as observe
      >>> from hcjax import trace
      >>> images = jnp.array([[1.0, -2.0], [-1.9, 1.2]])
      >>> model = trace(lambda p, x: x @ p["fc"]["w"], {"fc": {"w": jnp.eye(2)}}, images)
      >>> ranges = observe.calibrate(model, images, method="minmax")
      >>> print(error_analysis(model, ranges, images, np.array([0, 1]), bits=4))
      layer  bits  SQNR (dB)  accuracy drop
      fc        4       27.6         0.00 %
      all                            0.00 %
    """
    images, labels = examples.labelled(model, images, labels, batch_size)
    quantized, builder = fake.build(model, ranges, every_layer(with_fields(spec, fields)))
    layers = _layers(model, builder)
    batches = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]

    compute_powers = jax.jit(partial(_powers, model, quantized, layers))
    powers = sum(
        np.asarray(compute_powers(model.params, quantized.params, images[batch]), np.float64)
        for batch in batches
    )
    kernels, scales = jax.jit(partial(_constants, quantized, layers))(quantized.params, images[:1])
    apply_one = jax.jit(partial(_apply_one_quantized, model, builder, layers))
    apply_all = jax.jit(quantized.apply)

    def count_correct(logits):
        return sum(int((np.argmax(logits(images[b]), 1) == labels[b]).sum()) for b in batches)

    def count_correct_of_one(k):
        return count_correct(lambda x: apply_one(model.params, kernels, scales, x, jnp.int32(k)))

    base, every = count_correct_of_one(-1), count_correct(partial(apply_all, quantized.params))
    with np.errstate(divide="ignore"):
        sqnr = 10 * np.log10(powers[:, 0] / powers[:, 1])
    rows = tuple(
        LayerError(
            layer.name, layer.bits, float(sqnr[k]), (base - count_correct_of_one(k)) / len(labels)
        )
        for k, layer in enumerate(layers)
    )
    return ErrorAnalysis(rows, base / len(labels), (base - every) / len(labels), len(labels))


def _layers(model: Model, b: Builder) -> list[_Layer]:
    """Returns the layers that have a kernel, with their numbers in both graphs."""
    producers = {op.output: op for op in b.ops}
    layers = []
    for op in b.original:
        if op.kind not in LAYERS or channel_axis(op, b.constants) is None:
            continue
        kernel = next(i for i in op.inputs if i in b.constants)
        quantized, kernel_scale, _, name = b.kernel(op, kernel)
        last = end(b, op)
        if last is None or quantized not in producers:
            continue
        if q := b.forms[last].int8:
            output, scale, zero = q.number, q.scale, q.zero
        else:
            output, scale, zero = b.forms[last].floating, None, 0
        axis = kernel_axis(op, b.constants)
        numbers = (kernel, quantized, kernel_scale, axis, last, output, scale, zero)
        layers.append(_Layer(name, producers[quantized].params["bits"], *numbers))
    return layers


def end(b: Builder, op: Op) -> int | None:
    """Returns the first number, from a layer's output on, that the quantized graph holds."""
    number = op.output
    while not b.forms[number].int8 and b.forms[number].floating is None:
        consumers = b.consumers.get(number, ())
        if not consumers:
            return None
        number = consumers[0].output
    return number


def _real(env: dict[int, jax.Array], layer: _Layer) -> jax.Array:
    value = env[layer.quantized_end]
    return value if layer.scale is None else (value - layer.zero) * env[layer.scale]


def _powers(model, quantized, layers, params, quantized_params, images) -> jax.Array:
    """Returns float32[L, 2]: the power of each layer's output, and of its error."""
    floats = capture_activations(model, model.leaves(params), images)
    integers = capture_activations(quantized, quantized.leaves(quantized_params), images)
    rows = []
    for layer in layers:
        x = floats[layer.end].astype(jnp.float32)
        rows.append(jnp.stack([(x**2).sum(), ((x - _real(integers, layer)) ** 2).sum()]))
    return jnp.stack(rows)


def _constants(quantized, layers, params, images) -> tuple[list, list]:
    """Returns each layer's dequantized kernel, and the scale of its output."""
    env = capture_activations(quantized, quantized.leaves(params), images)
    kernels = []
    for layer in layers:
        kernel, scale = env[layer.quantized_kernel], env[layer.kernel_scale]
        along = [-1 if a == layer.axis else 1 for a in range(kernel.ndim)]
        kernels.append(kernel * (scale.reshape(along) if scale.ndim else scale))
    return kernels, [None if layer.scale is None else env[layer.scale] for layer in layers]


def _apply_one_quantized(model, b, layers, params, kernels, scales, images, which) -> jax.Array:
    """Returns the logits with only the layer of index `which` quantized; none for -1."""

    def quantize(number, value):
        for k, layer in enumerate(layers):
            if number == layer.kernel:
                value = jnp.where(which == k, kernels[k].astype(value.dtype), value)
            elif number == layer.end and layer.scale is not None:
                qparams = b.forms[layer.end].int8
                q = jnp.round(value / scales[k]) + layer.zero
                q = jnp.clip(q, qparams.qmin, qparams.qmax) - layer.zero
                value = jnp.where(which == k, (q * scales[k]).astype(value.dtype), value)
        return value

    numbers = model.graph.params
    leaves = {path: quantize(numbers[path], x) for path, x in model.leaves(params).items()}
    return run(model.graph, leaves, images, visit=quantize)
