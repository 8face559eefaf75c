"""Layers: convolutions and dense products, the ops with a kernel, and their axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.graph.model import Op, Size, at_batch
from hcjax.graph.ops.kind import LAYER, Kind, LayerAxes, Shapes, count
from hcjax.graph.qtensor import QTensor

_CONVOLUTION = (
    "window_strides",
    "padding",
    "lhs_dilation",
    "rhs_dilation",
    "feature_group_count",
    "dimension_numbers",
    "preferred_element_type",
    "bias_axis",
)


def _convolve(p: dict, x: Any, kernel: Any, *bias: jax.Array) -> jax.Array:
    x, kernel = _get_values(x), _get_values(kernel)
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "feature_group_count")
    numbers = lax.ConvDimensionNumbers(*p["dimension_numbers"])
    options = {name: p[name] for name in names} | {"dimension_numbers": numbers}
    options |= {"precision": p.get("precision"), "preferred_element_type": _result_dtype(p, x)}
    return _add_bias(p, lax.conv_general_dilated(x, kernel, **options), *bias)


def _contract(p: dict, x: Any, y: Any, *bias: jax.Array) -> jax.Array:
    x, y = _get_values(x), _get_values(y)
    options = {"precision": p.get("precision"), "preferred_element_type": _result_dtype(p, x)}
    return _add_bias(p, lax.dot_general(x, y, p["dimension_numbers"], **options), *bias)


def _result_dtype(p: dict, x: jax.Array) -> Any:
    return jnp.int32 if x.dtype == jnp.int8 else p.get("preferred_element_type")


def _get_values(x: Any) -> jax.Array:
    return x.values if isinstance(x, QTensor) else x


def _add_bias(p: dict, y: jax.Array, *bias: jax.Array) -> jax.Array:
    """Adds the folded bias, if there is one, to a layer's product."""
    if not bias:
        return y
    shape = [-1 if a == p["bias_axis"] else 1 for a in range(y.ndim)]
    return y + bias[0].reshape(shape).astype(y.dtype)


def _convolution_terms(op: Op, shapes: Shapes) -> int:
    kernel = shapes[1]
    out = op.params["dimension_numbers"].rhs_spec[0]
    return count([size for a, size in enumerate(kernel) if a != out])


def _dense_terms(op: Op, shapes: Shapes) -> int:
    (left, _), _ = op.params["dimension_numbers"]
    return count([shapes[0][a] for a in left])


def _convolution_axes(op: Op, side: int, rank: int) -> LayerAxes:
    numbers = op.params["dimension_numbers"]
    (out, inputs, *taps), (_, features, *_) = numbers.rhs_spec, numbers.lhs_spec
    channels = numbers.out_spec[1] if side == 1 else None
    return LayerAxes(channels, out, ((features, inputs),), tuple(taps))


def _dense_axes(op: Op, side: int, rank: int) -> LayerAxes:
    contracted, batch = op.params["dimension_numbers"]
    summed = sorted(zip(contracted[1 - side], contracted[side], strict=True), key=lambda ab: ab[1])
    outputs = next((a for a in range(rank) if a not in contracted[side]), 0)
    is_matrix = not any(batch) and rank == len(summed) + 1
    channels = (len(op.shape) - 1 if side == 1 else 0) if is_matrix else None
    return LayerAxes(channels, outputs, tuple(summed))


def _resize_groups(op: Op, masks: list, result_masks: list) -> dict:
    if op.params["feature_group_count"] == 1:
        return {}
    numbers = op.params["dimension_numbers"]
    inputs, kernel = masks[0][numbers.lhs_spec[1]], masks[1][numbers.rhs_spec[1]]
    return {"feature_group_count": int(inputs.sum()) // int(kernel.sum())}


def _decode_precision(value: Any) -> Any:
    """Returns the precision in jax's type, from its JSON form."""
    if isinstance(value, tuple | list):
        return tuple(map(_decode_precision, value))
    return value if value is None or isinstance(value, str) else lax.Precision(value)


def _neutralise_batch_groups(params: dict) -> dict:
    groups = params.get("batch_group_count", 1)
    return params | {"batch_group_count": None if groups == 1 else groups}


_OPTIONAL = {"precision": None}
_DECODE = {"precision": _decode_precision}

LAYER_KINDS = {
    "conv_general_dilated": Kind(
        LAYER,
        _convolve,
        _CONVOLUTION,
        optional=_OPTIONAL,
        terms=_convolution_terms,
        layer=_convolution_axes,
        decode=_DECODE | {"dimension_numbers": lambda numbers: lax.ConvDimensionNumbers(*numbers)},
        resize=_resize_groups,
        further=_neutralise_batch_groups,
    ),
    "dot_general": Kind(
        LAYER,
        _contract,
        ("dimension_numbers", "preferred_element_type", "bias_axis"),
        optional=_OPTIONAL,
        terms=_dense_terms,
        layer=_dense_axes,
        decode=_DECODE,
    ),
}


def macs(op: Op, shapes: Shapes) -> int:
    """Returns the multiply-accumulates of a layer for one image; 0 for any other op.

    Args:
      op: of known kind and shape.
      shapes: of its operands, sizes as (q, r).
    """
    if op.kind not in LAYER_KINDS:
        return 0
    return math.prod(op.sizes(1)) * products(op, [at_batch(shape, 1) for shape in shapes])


def products(op: Op, shapes: Sequence[Sequence[int]]) -> int:
    """Returns the count of products in the sum that is one number of a layer's result.

    Args:
      op: a convolution or dense op.
      shapes: of its operands, for a batch of one.
    """
    sizes = tuple(tuple(Size(0, n) for n in shape) for shape in shapes)
    return LAYER_KINDS[op.kind].terms(op, sizes)
