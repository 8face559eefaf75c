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

from hcjax import tasks
from hcjax.accelerate import compiler
from hcjax.core import notebook, text
from hcjax.graph import interface
from hcjax.graph.axes import channel_axis, kernel_axis
from hcjax.graph.model import LAYERS, Model, Op, capture_activations
from hcjax.quantize import fake
from hcjax.quantize.calibration.ranges import Ranges
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.spec import QuantSpec, every_layer, with_fields
from hcjax.tasks import Task, examples, scoring


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

    accuracy: in float, or another score of the task. drop: loss of it with all layers quantized.
    examples: their number. score: the name of the score.
    """

    rows: tuple[LayerError, ...]
    accuracy: float
    drop: float
    examples: int
    score: str = "accuracy"

    _repr_html_ = notebook.to_html
    to_csv = notebook.to_csv
    to_latex = notebook.to_latex

    @property
    def grid(self) -> notebook.Grid:
        """A row for each layer and one for all, with drops as fractions."""
        rows = [*self.rows, ("all", None, None, self.drop)]
        return notebook.Grid(("layer", "bits", "SQNR (dB)", f"{self.score} drop"), rows)

    def __repr__(self) -> str:
        lines = [("layer", "bits", "SQNR (dB)", f"{self.score} drop")]
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
    axis: int | None  # None for a table of embeddings, which has one scale
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
    task: Task | str = "classification",
    **fields: Any,
) -> ErrorAnalysis:
    """Returns the error that quantization causes in each layer's output, and in accuracy.

    Args:
      model: from `trace`, best through `fold`.
      ranges: from `calibrate` of the same model.
      images: float array [N, ...], N >= 1, normalised as in training, or a tuple of all inputs;
        not the test set, if the analysis guides a choice.
      labels: int[N], each in [0, K), or other targets of the task.
      spec, **fields: as in `fake_quantize`, with no layer in float.
      batch_size: images in one call.
      task: what the network is for, see `hcjax.tasks`, or its name there; drops are of its best
        score.

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
    task = tasks.get(task)
    images, targets = examples.checked(model, images, labels, batch_size, task)
    quantized, builder = fake.build(model, ranges, every_layer(with_fields(spec, fields)))
    layers = _layers(model, builder)
    batches = interface.batches(model.inputs, images, batch_size)
    parts, masks = scoring.batched(targets, batch_size)

    compute_powers = compiler.jit(partial(_powers, model, quantized, layers))
    powers = sum(
        np.asarray(compute_powers(model.params, quantized.params, batch), np.float64)
        for batch in batches
    )
    one = interface.part(model.inputs, images, slice(1))
    kernels, scales = jax.jit(partial(_constants, quantized, layers))(quantized.params, one)
    one_of = partial(_apply_one_quantized, model, builder, layers)
    count_one = compiler.jit(scoring.counted(task, one_of))
    count_all = compiler.jit(scoring.counted(task, partial(_apply, quantized)))

    def score_of_one(k):
        def count(i, y, mask):
            return count_one(y, mask, model.params, kernels, scales, batches[i], jnp.int32(k))

        return scoring.summary(task, count, parts, masks)

    def count_every(i, y, mask):
        return count_all(y, mask, quantized.params, batches[i])

    base, every = score_of_one(-1), scoring.summary(task, count_every, parts, masks)
    with np.errstate(divide="ignore"):
        sqnr = 10 * np.log10(powers[:, 0] / powers[:, 1])

    def drop(scores):
        return base[task.best] - scores[task.best]

    rows = tuple(
        LayerError(layer.name, layer.bits, float(sqnr[k]), drop(score_of_one(k)))
        for k, layer in enumerate(layers)
    )
    count = interface.count(model.inputs, images)
    return ErrorAnalysis(rows, base[task.best], drop(every), count, task.best)


def _apply(model: Model, params: Any, images: list) -> Any:
    return model.compute(model.leaves(params), images)


def _layers(model: Model, b: Builder) -> list[_Layer]:
    """Returns the layers that have a kernel, with their numbers in both graphs."""
    producers = {op.output: op for op in b.ops}
    layers = []
    for op in b.original:
        table = b.is_table(op)
        if not table and (op.kind not in LAYERS or channel_axis(op, b.constants) is None):
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
        axis = None if table else kernel_axis(op, b.constants)
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


def _apply_one_quantized(model, b, layers, params, kernels, scales, images, which) -> Any:
    """Returns the outputs with only the layer of index `which` quantized; none for -1."""

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
    return model.compute(leaves, images, quantize)
