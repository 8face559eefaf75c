"""Ops that move numbers to other places, or take some of them, and change none."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.graph.model import Op, plain
from hcjax.graph.ops.kind import CONSTANT, JOIN, KEEPS_ZERO, MOVE, Kind, Shapes


def _transposed(op: Op, shapes: Shapes) -> tuple[int, ...]:
    return tuple(op.params["permutation"])


def _squeezed(op: Op, shapes: Shapes) -> tuple[int, ...]:
    gone = {a % len(shapes[0]) for a in op.params["dimensions"]}
    return tuple(a for a in range(len(shapes[0])) if a not in gone)


def _broadcast(op: Op, shapes: Shapes) -> tuple[int | None, ...]:
    to = op.params["broadcast_dimensions"]
    return tuple(to.index(a) if a in to else None for a in range(len(op.shape)))


def _slice(p: dict, x: jax.Array) -> jax.Array:
    return lax.slice(x, p["start_indices"], p["limit_indices"], p["strides"])


def _gather(p: dict, x: jax.Array, index: jax.Array) -> jax.Array:
    numbers = lax.GatherDimensionNumbers(*p["dimension_numbers"])
    return lax.gather(x, index, numbers, p["slice_sizes"], mode=p["mode"])


def _unfilled(params: dict) -> dict:
    """Returns a gather's further params without a fill value of NaN, which is the default."""
    fill = params.get("fill_value")
    return params | {"fill_value": None if fill is None or np.isnan(fill) else fill}


def _gather_origin(op: Op, shapes: Shapes) -> tuple[int | None, ...]:
    """Returns the whole axes that a gather takes pieces across."""
    numbers, sizes = lax.GatherDimensionNumbers(*op.params["dimension_numbers"]), shapes[0]
    gone = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
    across = [a for a in range(len(sizes)) if a not in gone]
    taken = op.params["slice_sizes"]
    found: list[int | None] = [None] * len(op.shape)
    for place, a in zip(numbers.offset_dims, across, strict=True):
        if taken[a] == plain(sizes)[a]:
            found[place] = a
    return tuple(found)


def _gather_mixes(op: Op, shapes: Shapes) -> tuple[int, ...]:
    """Returns the axes that a gather takes parts of: an index of the result may be any of them."""
    follows = _gather_origin(op, shapes)
    return tuple(a for a in range(len(shapes[0])) if a not in follows)


def _resize_slice(op: Op, stays: list, remains: list) -> dict:
    starts, limits = list(op.params["start_indices"]), list(op.params["limit_indices"])
    for a, (before, after) in enumerate(zip(stays[0], remains[0], strict=True)):
        if not before.all():
            starts[a] = int(before[: starts[a]].sum())
            limits[a] = starts[a] + int(after.sum())
    return {"start_indices": tuple(starts), "limit_indices": tuple(limits)}


def _resize_pad(op: Op, stays: list, remains: list) -> dict:
    config = list(op.params["padding_config"])
    for a, (before, after) in enumerate(zip(stays[0], remains[0], strict=True)):
        low, high, between = config[a]
        if not (before.all() and after.all()):
            low = int(after[:low].sum()) if low > 0 else -int(before[:-low].sum())
            end = len(after) - high
            high = int(after[end:].sum()) if high > 0 else -int(before[len(before) + high :].sum())
            config[a] = (low, high, between)
    return {"padding_config": tuple(config)}


def _resize_gather(op: Op, stays: list, remains: list) -> dict:
    sizes = list(op.params["slice_sizes"])
    for a, stay in enumerate(stays[0]):
        if not stay.all():
            sizes[a] = int(stay.sum())
    return {"slice_sizes": tuple(sizes)}


def _to_shape(field: str) -> Any:
    return lambda op, stays, remains: {field: plain(op.shape)}


MOVEMENT_KINDS = {
    "reshape": Kind(
        MOVE,
        lambda p, x: lax.reshape(x, p["new_sizes"]),
        ("new_sizes",),
        origin=lambda op, shapes: (None,) * len(op.shape),  # where it is an axis, rules say so
        traits=KEEPS_ZERO,
        resize=_to_shape("new_sizes"),
    ),
    "transpose": Kind(
        MOVE,
        lambda p, x: lax.transpose(x, p["permutation"]),
        ("permutation",),
        origin=_transposed,
        traits=KEEPS_ZERO,
    ),
    "squeeze": Kind(
        MOVE,
        lambda p, x: lax.squeeze(x, p["dimensions"]),
        ("dimensions",),
        origin=_squeezed,
        traits=KEEPS_ZERO,
    ),
    "broadcast_in_dim": Kind(
        MOVE,
        lambda p, x: lax.broadcast_in_dim(x, p["shape"], p["broadcast_dimensions"]),
        ("shape", "broadcast_dimensions"),
        origin=_broadcast,
        traits=KEEPS_ZERO,
        resize=_to_shape("shape"),
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
    # a softmax has one: its greatest number is subtracted for the range alone
    "stop_gradient": Kind(MOVE, lambda p, x: lax.stop_gradient(x), traits=KEEPS_ZERO),
    "gather": Kind(
        MOVE,
        _gather,
        ("dimension_numbers", "slice_sizes", "mode"),
        decode={"mode": lax.GatherScatterMode},
        origin=_gather_origin,
        mixes=_gather_mixes,
        resize=_resize_gather,
        further=_unfilled,
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
