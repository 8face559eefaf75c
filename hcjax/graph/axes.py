"""Layers: where a convolution or a dense op has its channels."""

from __future__ import annotations

from typing import Any

import numpy as np

from hcjax.graph.model import Op


def channel_axis(op: Op, values: dict[int, Any]) -> int | None:
    """Returns the axis of a layer's output that holds its channels; None if none does."""
    if op.kind == "conv_general_dilated":
        if op.params.get("batch_group_count", 1) != 1 or op.inputs[1] not in values:
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
