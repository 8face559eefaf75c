"""`fake_quantize`: the int8 program in float32, for quantization-aware training.

In: a Model and the ranges of its activations. Out: a Model whose layers compute on integers held
in float32, rounded by the same functions as the int8 program; gradients are straight-through
estimates.
"""

from __future__ import annotations

import dataclasses
import re
import warnings
from typing import Any

import jax

from hcjax.errors import ConfigError, no_match
from hcjax.graph.model import Graph, Model, is_quantized, live_ops
from hcjax.quantize.calibration import grids
from hcjax.quantize.calibration.ranges import Ranges
from hcjax.quantize.lowering import conversion
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.lowering.rules import place
from hcjax.quantize.spec import QuantSpec, checked, with_fields

_CLEAR = 20.0  # dB of an activation below which a network is likely to suffer
_SHOWN = 8  # activations that a warning lists


def fake_quantize(
    model: Model,
    ranges: Ranges,
    spec: QuantSpec | None = None,
    **fields: Any,
) -> Model:
    """Returns the fake-quantized network: trainable, with the logits of `int8(fake)` bit for bit.

    Kernels, tables of embeddings among them, are rounded to symmetric integers, activations to
    integers with one scale each, and a zero point where it pays (`quantize.grids`). A warning lists
    the activations whose signal-to-noise ratio on the calibration images is below 20 dB, with their
    ranges and a cure.
    Gradients are those of the straight-through estimator: 1 through rounding, 0 where clipping
    changed the value. Scales are parameters, learned with the weights.

    Args:
      model: from `trace`, best through `fold`.
      ranges: from `calibrate` of the same model.
      spec: bits of kernels, activations and layers' inputs, granularity, layers left in float,
        zero points; None for 8 bits everywhere.
      **fields: fields that replace those of the spec: `bits=4, activation_bits=8`.

    Returns:
      Model with the same params, the scales `LAYER/kernel_step` float32[C] or float32[] of kernels
      and `NAME/step` float32[] of activations, and `LAYER/input_step` float32[] where a layer's
      input is requantized. Ops that stay in float are listed in `floats`; among them are those of
      masks (constants such as -1e9 that stand for "never"), which are exact in float. Indices
      outside of an embedding's table, for which jax gives NaN in float, take its nearest row.

    Raises:
      ValueError: if the model is in integers already, the ranges are another model's, the
        granularity is unknown, or an accumulator could exceed 30 bits.
      ConfigError: if bits are not an int, or a regular expression is invalid or matches no layer.
      TypeError: if a field is unknown.

    Reference:
      Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153: gradients of scales
      are multiplied by the same factor.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax.quantize.calibration import ranges as observe
      >>> from hcjax import trace
      >>> images = jnp.array([[1.0, -2.0]])
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.array([[0.5], [1.0]])}, images)
      >>> fake = fake_quantize(model, observe.calibrate(model, images, method="minmax"))
      >>> fake.paths
      ('images/step', 'w', 'w/kernel_step')
      >>> fake.apply(fake.params, images).round(1).tolist()
      [[-1.5]]
    """
    return build(model, ranges, with_fields(spec, fields))[0]


def build(model: Model, ranges: Ranges, spec: QuantSpec) -> tuple[Model, Builder]:
    """Returns the fake-quantized model and its Builder, which maps each number to its forms."""
    check_float(model)
    if not isinstance(ranges, Ranges):
        raise ConfigError(
            f"ranges must be Ranges, from hcjax.calibrate, got {type(ranges).__name__}"
        )
    if ranges.graph is not model.graph:
        raise ValueError("the ranges are those of another model: calibrate the one to be quantized")
    spec = checked(spec)
    builder = Builder(model, ranges, **spec._asdict())
    _check_patterns(builder, spec)
    for op in builder.original:
        place(builder, op)
    outputs = tuple(conversion.output_of(builder, number) for number in model.graph.outputs)
    ops = live_ops(builder.ops, outputs)
    used = {i for op in ops for i in op.inputs}.union(outputs)
    numbers = {path: number for path, number in builder.numbers.items() if number in used}
    constants = {number: value for number, value in builder.new_constants.items() if number in used}
    _warn_of_noise(builder)
    fake = model.replace(
        graph=Graph(tuple(ops), model.graph.inputs, outputs, numbers, constants),
        params={path: builder.params[path] for path in numbers},
        paths=tuple(sorted(numbers)),
        floats=tuple(dict.fromkeys(builder.floats)),
        outputs=_outputs(model, builder, outputs),
    )
    return fake, builder


def _outputs(model: Model, builder: Builder, numbers: tuple[int, ...]) -> Any:
    """Returns the outputs of the new graph: integers times scales are float32, whatever was."""
    leaves, treedef = jax.tree.flatten(model.outputs)
    dtypes = {o: op.dtype for op in builder.ops for o in op.outputs}
    new = [
        dataclasses.replace(leaf, dtype=dtypes.get(number, leaf.dtype))
        for leaf, number in zip(leaves, numbers, strict=True)
    ]
    return jax.tree.unflatten(treedef, new)


def check_float(model: Model) -> None:
    """Raises unless its argument is a Model in float or a fake-quantized one."""
    if not isinstance(model, Model):
        raise ConfigError(f"model must be a Model, from hcjax.trace, got {type(model).__name__}")
    if is_quantized(model) and not any(op.kind == "step" for op in model.graph.ops):
        raise ValueError("the model is in integers already: quantize the float model instead")


def _warn_of_noise(builder: Builder) -> None:
    """Warns of activations that 8 bits, or those asked for, hold badly."""
    ranges, noisy = builder.ranges, []
    for name, number, grid in builder.grids:
        if (ratio := grids.sqnr(ranges, number, grid)) < _CLEAR:
            noisy.append((ratio, name, number, grid))
    lines = [
        f"  {name}: {ratio:.1f} dB, range {ranges.low[number]:.4g} to {ranges.high[number]:.4g}, "
        f"step {grid.scale:.3g}; {_cure(builder, name, number, grid)}"
        for ratio, name, number, grid in sorted(noisy, key=lambda row: row[0])
    ]
    if lines:
        more = [f"  and {len(lines) - _SHOWN} more"] if len(lines) > _SHOWN else []
        text = (
            f"{len(lines)} of {len(builder.grids)} activations have a signal-to-noise ratio below "
        )
        text += f"{_CLEAR:g} dB on the calibration images:"
        warnings.warn("\n".join([text, *lines[:_SHOWN], *more]), stacklevel=4)


def _cure(builder: Builder, name: str, number: int, grid: grids.Grid) -> str:
    """Returns what a user can do about an activation with few levels."""
    low, high = builder.ranges.low[number], builder.ranges.high[number]
    spread = builder.ranges.variance[number] ** 0.5
    if grid.qmax - grid.qmin < 127:
        layer = name.removesuffix("/input_step")
        key = "activation_bits" if layer == name else "input_bits"
        return f"give it more bits: {key}={{{layer!r}: 8, ...}}, or train with these"
    if (
        not builder.zero_points
        and grids.grid(builder.ranges, number, 8, zero_point=True, holds_zero=False).zero
    ):
        return "allow it a zero point: zero_points=True"
    if max(-low, high) > 20 * spread and min(abs(low), abs(high)) < 10 * spread:
        return 'a few numbers set its range: calibrate(..., method="percentile"), or clip them'
    return "it is far from 0 where 0 is needed too: subtract its mean in the network, before"


def _check_patterns(builder: Builder, spec: QuantSpec) -> None:
    """Raises ConfigError if a pattern of the spec matches no layer."""
    names = dict.fromkeys(layer for op in builder.original if (layer := builder.layer_of(op)))
    patterns = [("floats", spec.floats, names)] if spec.floats else []
    for key, bits in spec.widths.items():
        # an activation may be the images, or a value behind no layer
        legal = [*names, *builder.label.values(), "value"] if key == "activation_bits" else names
        patterns += [(key, p, legal) for p in (() if isinstance(bits, int) else bits)]
    for key, pattern, legal in patterns:
        if not any(re.fullmatch(pattern, name) for name in legal):
            raise ConfigError(f"{key}: {no_match(pattern, 'layer', list(legal))}")
