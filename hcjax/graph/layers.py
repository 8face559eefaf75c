"""Layers: where a convolution or a dense op has its channels, and the product of its operands."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax import lax

from hcjax.graph.model import Op, at_batch


def axis(op: Op, values: dict[int, Any]) -> int | None:
    """Returns the axis of a layer's output that holds its channels; None if none does."""
    if op.kind == "conv_general_dilated":
        if op.params["batch_group_count"] != 1 or op.inputs[1] not in values:
            return None
        return op.params["dimension_numbers"].out_spec[1]
    (left, right), batches = op.params["dimension_numbers"]
    if batches[0] or batches[1]:
        return None
    if op.inputs[1] in values and np.ndim(values[op.inputs[1]]) == len(right) + 1:
        return len(op.shape) - 1
    if op.inputs[0] in values and np.ndim(values[op.inputs[0]]) == len(left) + 1:
        return 0
    return None


def kernel_axis(op: Op, values: dict[int, Any]) -> int:
    """Returns the axis of a layer's kernel that holds its output channels."""
    if op.kind == "conv_general_dilated":
        return op.params["dimension_numbers"].rhs_spec[0]
    contracted, _ = op.params["dimension_numbers"]
    side = 1 if op.inputs[1] in values else 0
    ndim = np.ndim(values[op.inputs[side]])
    return next(a for a in range(ndim) if a not in contracted[side])


def product(op: Op, dtype: Any) -> Callable[..., jax.Array]:
    """Returns a layer's product as a function of (batch size, left, right), without its bias.

    Args:
      op: a convolution or dense op.
      dtype: of the result and of the sums in it.
    """
    if op.kind == "dot_general":
        numbers = op.params["dimension_numbers"]
        return lambda batch, x, y: lax.dot_general(x, y, numbers, preferred_element_type=dtype)
    names = ("window_strides", "padding", "lhs_dilation", "rhs_dilation", "dimension_numbers")
    names = (*names, "feature_group_count", "batch_group_count")

    def compute(batch, x, kernel):
        params = {name: at_batch(op.params[name], batch) for name in names}
        return lax.conv_general_dilated(x, kernel, **params, preferred_element_type=dtype)

    return compute


def products(op: Op, shapes: list[tuple[int, ...]]) -> int:
    """Returns how many products are added up for one number of a layer's output.

    Args:
      op: a convolution or dense op.
      shapes: of its two operands; for a batch of one.
    """
    if op.kind == "dot_general":
        (left, _), _ = op.params["dimension_numbers"]
        return math.prod(shapes[0][a] for a in left)
    return math.prod(shapes[1]) // shapes[1][op.params["dimension_numbers"].rhs_spec[0]]
