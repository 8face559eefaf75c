"""Ops that move or select numbers and change none."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.graph.model import Op, plain
from hcjax.graph.ops.kind import CONSTANT, JOIN, KEEPS_ZERO, MOVE, Kind, Shapes
from hcjax.graph.qtensor import QTensor


def _transpose_origin(op: Op, shapes: Shapes) -> tuple[int, ...]:
    return tuple(op.params["permutation"])


def _squeeze_origin(op: Op, shapes: Shapes) -> tuple[int, ...]:
    removed_axes = {a % len(shapes[0]) for a in op.params["dimensions"]}
    return tuple(a for a in range(len(shapes[0])) if a not in removed_axes)


def _broadcast_origin(op: Op, shapes: Shapes) -> tuple[int | None, ...]:
    axes = op.params["broadcast_dimensions"]
    return tuple(axes.index(a) if a in axes else None for a in range(len(op.shape)))


def _slice(p: dict, x: jax.Array) -> jax.Array:
    return lax.slice(x, p["start_indices"], p["limit_indices"], p["strides"])


def _gather(p: dict, x: Any, index: jax.Array) -> jax.Array:
    x = x.values if isinstance(x, QTensor) else x  # a table of integers
    numbers = lax.GatherDimensionNumbers(*p["dimension_numbers"])
    return lax.gather(x, index, numbers, p["slice_sizes"], mode=p["mode"])


def _drop_nan_fill(params: dict) -> dict:
    """Drops the fill value from a gather's further params if it is NaN, the default."""
    fill = params.get("fill_value")
    return params | {"fill_value": None if fill is None or np.isnan(fill) else fill}


def _gather_origin(op: Op, shapes: Shapes) -> tuple[int | None, ...]:
    """Returns the origin of a gather: its slices keep an axis that they span in full."""
    numbers, sizes = lax.GatherDimensionNumbers(*op.params["dimension_numbers"]), shapes[0]
    removed_axes = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    window_axes = [a for a in range(len(sizes)) if a not in removed_axes]
    lengths = op.params["slice_sizes"]
    origin: list[int | None] = [None] * len(op.shape)
    for place, a in zip(numbers.offset_dims, window_axes, strict=True):
        if lengths[a] == plain(sizes)[a]:
            origin[place] = a
    return tuple(origin)


def _gather_mixes(op: Op, shapes: Shapes) -> tuple[int, ...]:
    """Returns the axes that a gather picks indices from."""
    origin = _gather_origin(op, shapes)
    return tuple(a for a in range(len(shapes[0])) if a not in origin)


def _resize_slice(op: Op, masks: list, result_masks: list) -> dict:
    starts, limits = list(op.params["start_indices"]), list(op.params["limit_indices"])
    for a, (before, after) in enumerate(zip(masks[0], result_masks[0], strict=True)):
        if not before.all():
            starts[a] = int(before[: starts[a]].sum())
            limits[a] = starts[a] + int(after.sum())
    return {"start_indices": tuple(starts), "limit_indices": tuple(limits)}


def _resize_pad(op: Op, masks: list, result_masks: list) -> dict:
    config = list(op.params["padding_config"])
    for a, (before, after) in enumerate(zip(masks[0], result_masks[0], strict=True)):
        low, high, between = config[a]
        if not (before.all() and after.all()):
            low = int(after[:low].sum()) if low > 0 else -int(before[:-low].sum())
            end = len(after) - high
            high = int(after[end:].sum()) if high > 0 else -int(before[len(before) + high :].sum())
            config[a] = (low, high, between)
    return {"padding_config": tuple(config)}


def _resize_gather(op: Op, masks: list, result_masks: list) -> dict:
    sizes = list(op.params["slice_sizes"])
    for a, mask in enumerate(masks[0]):
        if not mask.all():
            sizes[a] = int(mask.sum())
    return {"slice_sizes": tuple(sizes)}


def _resize_to_shape(field: str) -> Any:
    return lambda op, masks, result_masks: {field: plain(op.shape)}


MOVEMENT_KINDS = {
    "reshape": Kind(
        MOVE,
        lambda p, x: lax.reshape(x, p["new_sizes"]),
        ("new_sizes",),
        origin=lambda op, shapes: (None,) * len(op.shape),  # where it is an axis, rules say so
        traits=KEEPS_ZERO,
        resize=_resize_to_shape("new_sizes"),
    ),
    "transpose": Kind(
        MOVE,
        lambda p, x: lax.transpose(x, p["permutation"]),
        ("permutation",),
        origin=_transpose_origin,
        traits=KEEPS_ZERO,
    ),
    "squeeze": Kind(
        MOVE,
        lambda p, x: lax.squeeze(x, p["dimensions"]),
        ("dimensions",),
        origin=_squeeze_origin,
        traits=KEEPS_ZERO,
    ),
    "broadcast_in_dim": Kind(
        MOVE,
        lambda p, x: lax.broadcast_in_dim(x, p["shape"], p["broadcast_dimensions"]),
        ("shape", "broadcast_dimensions"),
        origin=_broadcast_origin,
        traits=KEEPS_ZERO,
        resize=_resize_to_shape("shape"),
    ),
    "rev": Kind(MOVE, lambda p, x: lax.rev(x, p["dimensions"]), ("dimensions",), traits=KEEPS_ZERO),
    "slice": Kind(
        MOVE,
        _slice,
        ("start_indices", "limit_indices", "strides"),
        traits=KEEPS_ZERO,
        resize=_resize_slice,
    ),
    "copy": Kind(MOVE, lambda p, x: x, traits=KEEPS_ZERO),
    # softmax has one, on the maximum that it subtracts to avoid overflow
    "stop_gradient": Kind(MOVE, lambda p, x: lax.stop_gradient(x), traits=KEEPS_ZERO),
    "gather": Kind(
        MOVE,
        _gather,
        ("dimension_numbers", "slice_sizes", "mode"),
        decode={"mode": lax.GatherScatterMode},
        origin=_gather_origin,
        mixes=_gather_mixes,
        resize=_resize_gather,
        further=_drop_nan_fill,
    ),
    "pad": Kind(
        JOIN,
        lambda p, x, value: lax.pad(x, value, p["padding_config"]),
        ("padding_config",),
        resize=_resize_pad,
    ),
    "concatenate": Kind(JOIN, lambda p, *xs: lax.concatenate(xs, p["dimension"]), ("dimension",)),
    "iota": Kind(
        CONSTANT,
        lambda p: lax.broadcasted_iota(p["dtype"], p["shape"], p["dimension"]),
        ("dtype", "shape", "dimension"),
        decode={"dtype": jnp.dtype},
    ),
}
