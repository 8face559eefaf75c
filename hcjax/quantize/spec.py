"""`QuantSpec`: the bits of a quantized network, and its layers that stay in float.

In: keywords, as `fake_quantize`, `int8` and the analyses take them. Out: one checked value.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from hcjax.errors import ConfigError, unknown_name

Bits = int | Mapping[str, int]


class QuantSpec(NamedTuple):
    """The bits, the granularity and the float layers of a quantized network.

    bits: of kernels, 2 to 8; or regular expression of a layer's full name -> bits, 8 elsewhere. A
    table of embeddings is a kernel with one scale; its rows are activations as they are, and so it
    has the fewer of both bits.
    activation_bits: of activations, in the same form, by the layer that computes them; "images" is
    the input. None: as `bits`.
    input_bits: of the activations that a layer reads, by that layer. An activation with more bits
    is requantized for this layer alone, so that a residual sum may keep 8 bits while every
    convolution reads 4.
    granularity: "channel" gives a kernel one scale per output channel. "tensor" gives it one scale
    in all: fewer numbers to store, and fewer levels for small channels (see `equalize`).
    floats: regular expression of the full names of layers that compute in float, e.g. those that
    `quantize.profile` measures as no faster; "" for none.
    zero_points: whether activations get a zero point where it shortens their steps by a fifth or
    more: those that are never negative, are skewed, or are far from 0 (see `quantize.grids`).
    """

    bits: Bits = 8
    activation_bits: Bits | None = None
    input_bits: Bits = 8
    granularity: str = "channel"
    floats: str = ""
    zero_points: bool = True

    @property
    def widths(self) -> dict[str, Bits]:
        """Field -> bits, for the three fields of bits; `activation_bits` is filled in."""
        activations = self.bits if self.activation_bits is None else self.activation_bits
        return {"bits": self.bits, "activation_bits": activations, "input_bits": self.input_bits}


def with_fields(spec: QuantSpec | None, fields: Mapping[str, Any]) -> QuantSpec:
    """Replaces fields of a spec.

    Args:
      spec: None for the default.
      fields: field of QuantSpec -> value.

    Returns:
      QuantSpec, before `checked`.

    Raises:
      TypeError: if QuantSpec has no such field; the message names the nearest.
      ConfigError: if the spec is not a QuantSpec.

    Example:
      >>> with_fields(QuantSpec(bits=4), {"granularity": "tensor"})
      QuantSpec(bits=4, activation_bits=None, input_bits=8, granularity='tensor', floats='',
                zero_points=True)
    """
    spec = QuantSpec() if spec is None else spec
    if not isinstance(spec, QuantSpec):
        raise ConfigError(f"spec must be a QuantSpec, got {type(spec).__name__}")
    for name in fields:
        if name not in QuantSpec._fields:
            raise TypeError(unknown_name("field of QuantSpec", name, QuantSpec._fields))
    return spec._replace(**fields)


def checked(spec: QuantSpec) -> QuantSpec:
    """Fills in `activation_bits`, converts NumPy integers to Python's, and checks every field.

    `fake_quantize` checks the range of the bits and that every pattern matches a layer.

    Raises:
      ConfigError: if bits are not an int, or a pattern is not a regular expression.
      ValueError: if the granularity is unknown.

    Example:
      >>> checked(QuantSpec(bits=4)).activation_bits
      4
    """
    if spec.granularity not in ("channel", "tensor"):
        raise ValueError(f"granularity must be channel or tensor, got {spec.granularity!r}")
    widths = {key: _ints(key, bits) for key, bits in spec.widths.items()}
    check_pattern("floats", spec.floats or "")
    if not isinstance(spec.zero_points, bool):
        raise ConfigError(f"zero_points must be True or False, got {spec.zero_points!r}")
    return spec._replace(**widths)


def every_layer(spec: QuantSpec) -> QuantSpec:
    """Returns the spec of a function that measures every layer in integers.

    Raises:
      ConfigError: if the spec leaves layers in float.
    """
    if spec.floats:
        raise ConfigError(f"floats: every layer is measured in integers, got {spec.floats!r}")
    return spec


def check_pattern(key: str, pattern: str) -> None:
    """Raises ConfigError unless a pattern is a regular expression.

    Args:
      key: name of the pattern, for the message.
      pattern: any value.
    """
    try:
        re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"{key}: {pattern!r} is no regular expression: {error}") from None


def _ints(key: str, bits: Any) -> Bits:
    """Returns bits as Python ints; raises ConfigError if they are of another type."""
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
