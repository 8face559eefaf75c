"""Gathers that are slices: jax.numpy traces x[..., 1:4] to one if a size is symbolic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def as_slice(params: dict, index: np.ndarray, sizes: Sequence[Any]) -> dict | None:
    """Returns the params of the slice that is equal to a gather, up to axes of size 1.

    Args:
      params: of the gather, sizes that depend on the batch as `Size`.
      index: int[..., k], starts of its slices.
      sizes: of its operand's axes, likewise.

    Returns:
      start_indices, limit_indices and strides; None if no slice has the same order.

    Example:
      >>> from jax import lax
      >>> numbers = lax.GatherDimensionNumbers((0,), (1,), (1,))  # x[:, 1:6:2] of an [n, 8]
      >>> as_slice({"dimension_numbers": numbers, "slice_sizes": (4, 1)}, np.c_[[1, 3, 5]], (4, 8))
      {'start_indices': (0, 1), 'limit_indices': (4, 6), 'strides': (1, 2)}
    """
    numbers, pieces = params["dimension_numbers"], params["slice_sizes"]
    if numbers.operand_batching_dims or not index.size:
        return None
    rank = len(pieces)
    starts, limits, strides, axis_of = [0] * rank, list(pieces), [1] * rank, {}
    for j, axis in enumerate(numbers.start_index_map):
        positions = index[..., j]
        axes = [a for a in range(positions.ndim) if (positions != positions.take([0], a)).any()]
        if not isinstance(pieces[axis], int) or len(axes) > 1:
            return None
        starts[axis] = first = int(positions.flat[0])
        limits[axis] = first + pieces[axis]
        if axes:
            line = np.moveaxis(positions, axes[0], 0).reshape(positions.shape[axes[0]], -1)[:, 0]
            steps = np.diff(line)
            if pieces[axis] != 1 or steps[0] <= 0 or (steps != steps[0]).any():
                return None
            if axes[0] in axis_of:
                return None  # a diagonal: two axes advance together
            axis_of[axes[0]] = axis
            limits[axis], strides[axis] = int(line[-1]) + 1, int(steps[0])
        if first < 0 or (isinstance(sizes[axis], int) and limits[axis] > sizes[axis]):
            return None
    if any(n > 1 and a not in axis_of for a, n in enumerate(index.shape[:-1])):
        return None  # it repeats slices
    window_axes = iter(a for a in range(rank) if a not in numbers.collapsed_slice_dims)
    batch_axes = iter(range(index.ndim - 1))
    count = len(numbers.offset_dims) + index.ndim - 1
    order = [
        next(window_axes) if a in numbers.offset_dims else axis_of.get(next(batch_axes))
        for a in range(count)
    ]
    order = [a for a in order if a is not None]
    if order != sorted(order):
        return None
    return {
        "start_indices": tuple(starts),
        "limit_indices": tuple(limits),
        "strides": tuple(strides),
    }
