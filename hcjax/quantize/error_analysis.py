"""`error_analysis`: which layers of a quantized network hurt, and how much.

In: a float Model, the ranges of its values, examples. Out: for each layer, how far its output in
the quantized network is from that in float, and what quantizing it alone costs.
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
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.ranges import Ranges
from hcjax.quantize.spec import QuantSpec, every_layer, with_fields


class LayerError(NamedTuple):
    """One layer.

    name: of its parameters. bits: of its kernel. sqnr: 10 log10(sum of x² / sum of (x - q)²) in dB,
    x its output in float and q in the quantized network, where that is rounded: behind the relu
    and the residual add that follow it; infinite where they are equal. drop: of accuracy where only
    this layer is quantized, its kernel and its output, not what it reads; a fraction, below 0 for a
    gain.
    """

    name: str
    bits: int
    sqnr: float
    drop: float


class ErrorAnalysis(NamedTuple):
    """The rows of a network, in order; printed as a table.

    accuracy: in float. drop: of it, all layers quantized. examples: how many both are of.
    """

    rows: tuple[LayerError, ...]
    accuracy: float
    drop: float
    examples: int

    def __str__(self) -> str:
        lines = [("layer", "bits", "SQNR (dB)", "accuracy drop")]
        lines += [
            (r.name, str(r.bits), f"{r.sqnr:.1f}", f"{100 * r.drop:.2f} %") for r in self.rows
        ]
        lines.append(("all", "", "", f"{100 * self.drop:.2f} %"))
        return text.aligned(lines)


class _Layer(NamedTuple):
    """A layer's numbers: of its kernel, and of its output where it is rounded, in both graphs."""

    name: str
    bits: int
    kernel: int
    whole: int  # the kernel's integers
    kernel_step: int
    axis: int
    end: int
    rounded: int
    step: int | None  # None: of the logits, which are no integers


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
    """Returns how much each layer loses by quantization, in its output and in accuracy.

    Args:
      model: from `trace`, best through `fold`.
      ranges: from `calibrate` of it.
      images: float array [N, ...], N >= 1, normalised as the model takes them; not the test part,
        if anything is chosen by what comes out.
      labels: int[N], each in [0, K).
      spec, **fields: as of `fake_quantize`; no layer is left in float.
      batch_size: images at a time.

    Returns:
      ErrorAnalysis. A layer whose output is never rounded alone has the SQNR of the first value
      behind it that is.

    Raises:
      ValueError: if the ranges are another model's.
      ConfigError: if there are not as many labels as images, or one is no class, or the spec leaves
        layers in float.
      TypeError: if a field is unknown.

    Note:
      Compiles twice, however many layers there are, and runs the network once for each of them.

    Example:
      >>> from hcjax.quantize import ranges as observe
      >>> from hcjax import trace
      >>> images = jnp.array([[1.0, -2.0], [-2.0, 1.0]])
      >>> model = trace(lambda p, x: x @ p["fc"]["w"], {"fc": {"w": jnp.eye(2)}}, images)
      >>> found = error_analysis(model, observe.calibrate(model, images, method="minmax"), images,
      ...                        np.array([0, 1]), bits=4)
      >>> print(found)
      layer  bits  SQNR (dB)  accuracy drop
      fc        4       23.9         0.00 %
      all                            0.00 %
    """
    images, labels = examples.labelled(model, images, labels, batch_size)
    quantized, builder = fake.build(model, ranges, every_layer(with_fields(spec, fields)))
    found = _layers(model, builder)
    parts = [slice(i, i + batch_size) for i in range(0, len(images), batch_size)]

    both = jax.jit(partial(_powers, model, quantized, found))
    powers = sum(
        np.asarray(both(model.params, quantized.params, images[part]), np.float64) for part in parts
    )
    kernels, steps = jax.jit(partial(_constants, quantized, found))(quantized.params, images[:1])
    alone = jax.jit(partial(_alone, model, builder, found))
    whole = jax.jit(quantized.apply)

    def right(logits):
        return sum(int((np.argmax(logits(images[p]), 1) == labels[p]).sum()) for p in parts)

    def only(k):
        return right(lambda x: alone(model.params, kernels, steps, x, jnp.int32(k)))

    base, every = only(-1), right(partial(whole, quantized.params))
    with np.errstate(divide="ignore"):
        sqnr = 10 * np.log10(powers[:, 0] / powers[:, 1])
    rows = tuple(
        LayerError(layer.name, layer.bits, float(sqnr[k]), (base - only(k)) / len(labels))
        for k, layer in enumerate(found)
    )
    return ErrorAnalysis(rows, base / len(labels), (base - every) / len(labels), len(labels))


def _layers(model: Model, b: Builder) -> list[_Layer]:
    """Returns the layers that have a kernel, and where both graphs hold what belongs to them."""
    made = {op.output: op for op in b.ops}
    found = []
    for op in b.original:
        if op.kind not in LAYERS or channel_axis(op, b.constants) is None:
            continue
        kernel = next(i for i in op.inputs if i in b.constants)
        whole, kernel_step, _, name = b.kernel(op, kernel)
        last = end(b, op)
        if last is None or whole not in made:
            continue
        if b.forms[last].int8:
            rounded, step = b.forms[last].int8.number, b.forms[last].int8.scale
        else:
            rounded, step = b.forms[last].floating, None
        axis = kernel_axis(op, b.constants)
        about = (kernel, whole, kernel_step, axis, last, rounded, step)
        found.append(_Layer(name, made[whole].params["bits"], *about))
    return found


def end(b: Builder, op: Op) -> int | None:
    """Returns the first number from a layer's output on that the quantized graph holds."""
    number = op.output
    while not b.forms[number].int8 and b.forms[number].floating is None:
        following = b.consumers.get(number, ())
        if not following:
            return None
        number = following[0].output
    return number


def _real(env: dict[int, jax.Array], layer: _Layer) -> jax.Array:
    value = env[layer.rounded]
    return value if layer.step is None else value * env[layer.step]


def _powers(model, quantized, found, params, quantized_params, images) -> jax.Array:
    """Returns float32[L, 2]: the power of each layer's output, and of its error."""
    floats = capture_activations(model, model.leaves(params), images)
    whole = capture_activations(quantized, quantized.leaves(quantized_params), images)
    rows = []
    for layer in found:
        x = floats[layer.end].astype(jnp.float32)
        rows.append(jnp.stack([(x**2).sum(), ((x - _real(whole, layer)) ** 2).sum()]))
    return jnp.stack(rows)


def _constants(quantized, found, params, images) -> tuple[list, list]:
    """Returns each layer's kernel as its integers stand for it, and the step of its output."""
    env = capture_activations(quantized, quantized.leaves(params), images)
    kernels = []
    for layer in found:
        whole, step = env[layer.whole], env[layer.kernel_step]
        along = [-1 if a == layer.axis else 1 for a in range(whole.ndim)]
        kernels.append(whole * (step.reshape(along) if step.ndim else step))
    return kernels, [None if layer.step is None else env[layer.step] for layer in found]


def _alone(model, b, found, params, kernels, steps, images, which) -> jax.Array:
    """Returns the logits with the layer of number `which` quantized, and no other; -1: none."""

    def changed(number, value):
        for k, layer in enumerate(found):
            if number == layer.kernel:
                value = jnp.where(which == k, kernels[k].astype(value.dtype), value)
            elif number == layer.end and layer.step is not None:
                qparams = b.forms[layer.end].int8
                q = jnp.clip(jnp.round(value / steps[k]), qparams.qmin, qparams.qmax) * steps[k]
                value = jnp.where(which == k, q.astype(value.dtype), value)
        return value

    numbers = model.graph.params
    leaves = {path: changed(numbers[path], x) for path, x in model.leaves(params).items()}
    return run(model.graph, leaves, images, see=changed)
