"""`fake_quantize`: the integer program in float32, so that a network learns to be one.

In: a Model and the ranges of its values. Out: a Model whose layers compute on whole numbers,
rounded by the functions that the int8 network rounds by; gradients pass straight through.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any

from hcjax.errors import ConfigError
from hcjax.graph.model import Graph, Model, is_quantized, reaching
from hcjax.quantize.lowering import forms
from hcjax.quantize.lowering.builder import Bits, Builder
from hcjax.quantize.lowering.rules import place
from hcjax.quantize.ranges import Ranges


def fake_quantize(
    model: Model,
    ranges: Ranges,
    *,
    bits: Bits = 8,
    activation_bits: Bits | None = None,
    input_bits: Bits = 8,
    granularity: str = "channel",
    floats: str = "",
) -> Model:
    """Returns the network rounded where and as its int8 form rounds; trainable like any other.

    Its logits are those of `int8` of it, bit for bit. Kernels are rounded to symmetric integers,
    activations to integers with one step each. Gradients pass rounding unchanged and clipping where
    nothing was clipped (straight-through); step sizes are parameters.

    Args:
      model: from `trace`, best through `fold`.
      ranges: from `calibrate` of this very model.
      bits: of kernels, 2 to 8; or regular expression of a layer's whole name -> bits, 8 elsewhere.
      activation_bits: of activations likewise, by the layer that they come from; "images" is the
        input. None: as `bits`.
      input_bits: of what a layer reads, by that layer: where the activation has more, it is rounded
        again for this layer alone. So a residual sum may keep 8 bits that every convolution reads
        as 4.
      granularity: "channel": a kernel has a step for each of its output channels; "tensor": one for
        all, fewer numbers to store, and fewer levels for channels that are small (`equalize`).
      floats: regular expression of the whole names of layers that compute in float all the same,
        e.g. those that `quantize.profile` finds no faster; "" for none.

    Returns:
      Model with the params it had, `LAYER/kernel_step` float32[C] or float32[] of each kernel,
      `NAME/step` float32[], and `LAYER/input_step` float32[] where an input is rounded again. What
      stays in float is listed in `floats`.

    Raises:
      ValueError: if the model is in integers already, the ranges are another model's, the
        granularity is unknown, or an accumulator could pass 30 bits.
      ConfigError: if bits are no int, or a regular expression is none or matches no layer.

    Reference:
      Esser et al., "Learned Step Size Quantization", 2020, arXiv:1902.08153; the scale of step
      gradients is theirs.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax.quantize import ranges as observe
      >>> from hcjax import trace
      >>> images = jnp.array([[1.0, -2.0]])
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.array([[0.5], [1.0]])}, images)
      >>> fake = fake_quantize(model, observe.calibrate(model, images, method="minmax"))
      >>> fake.paths
      ('images/step', 'w', 'w/kernel_step')
      >>> fake.apply(fake.params, images).round(1).tolist()
      [[-1.5]]
    """
    widths = {"bits": bits, "activation_bits": activation_bits, "input_bits": input_bits}
    return build(model, ranges, **widths, granularity=granularity, floats=floats)[0]


def build(
    model: Model,
    ranges: Ranges,
    *,
    bits: Bits = 8,
    activation_bits: Bits | None = None,
    input_bits: Bits = 8,
    granularity: str = "channel",
    floats: str = "",
) -> tuple[Model, Builder]:
    """Returns what `fake_quantize` does, and what it was built by: where each value is found."""
    check_float(model)
    if not isinstance(ranges, Ranges):
        raise ConfigError(
            f"ranges must be Ranges, from hcjax.calibrate, got {type(ranges).__name__}"
        )
    if ranges.graph is not model.graph:
        raise ValueError("the ranges are those of another model: calibrate the one to be quantized")
    if granularity not in ("channel", "tensor"):
        raise ValueError(f"granularity must be channel or tensor, got {granularity!r}")
    activation_bits = bits if activation_bits is None else activation_bits
    widths = {"bits": bits, "activation_bits": activation_bits, "input_bits": input_bits}
    widths = {key: _ints(key, bits) for key, bits in widths.items()}
    check_pattern("floats", floats or "")
    builder = Builder(model, ranges, **widths, granularity=granularity, floats=floats)
    _check_patterns(builder, floats=floats, **widths)
    for op in builder.original:
        place(builder, op)
    logits = forms.logits(builder)
    ops = reaching(builder.ops, logits)
    used = {i for op in ops for i in op.inputs} | {logits}
    numbers = {path: number for path, number in builder.numbers.items() if number in used}
    constants = {number: value for number, value in builder.constants.items() if number in used}
    made = model.replace(
        graph=Graph(tuple(ops), model.graph.images, logits, numbers, constants),
        params={path: builder.params[path] for path in numbers},
        paths=tuple(sorted(numbers)),
        floats=tuple(builder.left),
    )
    return made, builder


def check_float(model: Model) -> None:
    """Raises unless a model is one, and in float: no transform here reads integers."""
    if not isinstance(model, Model):
        raise ConfigError(f"model must be a Model, from hcjax.trace, got {type(model).__name__}")
    if is_quantized(model) and not any(op.kind == "step" for op in model.graph.ops):
        raise ValueError("the model is in integers already: quantize the one that it was made of")


def _ints(key: str, bits: Any) -> Bits:
    """Returns bits as ints, NumPy's too; raises ConfigError if they are none."""
    if isinstance(bits, Mapping):
        for pattern in bits:
            check_pattern(key, pattern)
        return {pattern: _int(f"{key}[{pattern!r}]", each) for pattern, each in bits.items()}
    return _int(key, bits)


def _int(key: str, bits: Any) -> int:
    try:
        return operator.index(bits)
    except TypeError:
        raise ConfigError(f"{key} must be an int, or pattern -> int, got {bits!r}") from None


def check_pattern(key: str, pattern: str) -> None:
    """Raises ConfigError unless a pattern, of what `key` names, is a regular expression."""
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"{key}: {pattern!r} is no regular expression: {error}") from None


def _check_patterns(builder: Builder, *, floats: str, **widths: Bits) -> None:
    """Raises ConfigError if a pattern matches nothing; activations may be of images, or a sum."""
    names = dict.fromkeys(layer for op in builder.original if (layer := builder.layer_of(op)))
    patterns = [("floats", floats, names)] if floats else []
    for key, bits in widths.items():
        every = [*names, "images", "value"] if key == "activation_bits" else names
        patterns += [(key, p, every) for p in (() if isinstance(bits, int) else bits)]
    for key, pattern, every in patterns:
        if not any(re.fullmatch(pattern, name) for name in every):
            raise ConfigError(f"{key}: {pattern!r} matches none of the layers {', '.join(every)}")
