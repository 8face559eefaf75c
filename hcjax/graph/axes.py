"""The axes of a layer: of its kernel and of its channels, in a graph with evaluated constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from hcjax.graph.model import Op
from hcjax.graph.ops.kind import LayerAxes
from hcjax.graph.ops.table import kind_of


def layer_axes(op: Op, values: dict[int, Any]) -> LayerAxes | None:
    """Returns the axes of a layer; None if an op is no layer, or none of its operands is a kernel.

    Args:
      op: any op of a graph.
      values: number -> array of the constants; of two constant operands the second is the kernel.
    """
    kind = kind_of(op)
    if kind is None or kind.layer is None:
        return None
    axes = None
    for side in (1, 0):
        if op.inputs[side] in values:
            axes = axes or kind.layer(op, side, np.ndim(values[op.inputs[side]]))
    return axes


def channel_axis(op: Op, values: dict[int, Any]) -> int | None:
    """Returns the one axis of a layer's output that holds its channels; None without one."""
    axes = layer_axes(op, values)
    return axes.channels if axes else None


def kernel_axis(op: Op, values: dict[int, Any]) -> int:
    """Returns the axis of a layer's kernel that holds its output channels."""
    return layer_axes(op, values).outputs
