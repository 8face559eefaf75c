"""The batch axis: checks that the logits of an image depend on that image alone.

Every value that holds the images of a batch along one of its axes has a `Place`. A rule for each
kind of op follows it. An op that would mix images, or lose track of them, is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hcjax.graph.model import Op, Size
from hcjax.graph.ops.kind import MOVE, ORDER, REDUCE, SUM
from hcjax.graph.ops.table import family, kind_of

Shape = tuple[Size, ...]


class Place(NamedTuple):
    """Where a value holds the images of a batch.

    axis: of q · batch indices. inside: how many in a row belong to one image; 0 for a value that is
    the same at all of them.
    """

    axis: int
    inside: int


class Value(NamedTuple):
    """An operand as rules see it: its shape, and its place if it has one."""

    shape: Shape
    place: Place | None


def placed(op: Op, operands: Sequence[Value], shapes: Sequence[Shape]) -> list[Place | None]:
    """Returns where an op's results hold the images.

    Args:
      op: as it was read.
      operands: what it reads.
      shapes: of its results.

    Raises:
      ValueError: if a result at one image could depend on others; the message says how.

    Example:
      >>> images, sizes = Value((Size(1, 0), Size(0, 4)), Place(0, 1)), (Size(0, 4), Size(1, 0))
      >>> op = Op("transpose", (1,), (2,), sizes, None, "", None, {"permutation": (1, 0)})
      >>> placed(op, [images], [sizes])
      [Place(axis=1, inside=1)]
    """
    if all(v.place is None for v in operands):
        return [_fresh(op, shape) for shape in shapes]
    if op.kind == "optimization_barrier":
        return [v.place for v in operands]
    place = _rule(op)(op, operands)
    for shape in shapes:
        if [a for a, size in enumerate(shape) if size.q] != [place.axis] or shape[place.axis].r:
            raise ValueError(_MIXES)
    return [place] * len(shapes)


_MIXES = "mixes the images of a batch"


def _check(fine: bool, why: str = _MIXES) -> None:
    if not fine:
        raise ValueError(why)


def _fresh(op: Op, shape: Shape) -> Place | None:
    """Returns the place of a value that is the same for every image; None without a batch axis."""
    axes = [a for a, size in enumerate(shape) if size.q]
    if not axes:
        return None
    alike = op.kind == "broadcast_in_dim" or op.params.get("dimension", axes[0]) != axes[0]
    _check(alike, "counts the images of a batch")
    _check(len(axes) == 1 and not shape[axes[0]].r)
    return Place(axes[0], 1 if shape[axes[0]].q == 1 else 0)


def _one(places: Iterable[Place | None]) -> Place:
    """Returns the place that several values share."""
    places = set(places) - {None}
    found = {p for p in places if p.inside} or places
    _check(len(found) == 1 and len({p.axis for p in places}) == 1)
    return found.pop()


def _along(params: dict) -> set[int]:
    """Returns the axes that an equation's parameters name."""
    found = [params.get(name) for name in ("axis", "axes", "dimension", "dimensions")]
    return {a for v in found if v is not None for a in (v if isinstance(v, tuple) else (v,))}


def _same(op: Op, operands: Sequence[Value]) -> Place:
    place = _one(v.place for v in operands)
    window = [(name, op.params[name][place.axis]) for name in _ALONE if op.params.get(name)]
    _check(place.axis not in _along(op.params) and all(n == _ALONE[name] for name, n in window))
    first = next(v.shape for v in operands if v.place is not None)
    _check(len(first) == len(op.shape) and first[place.axis] == op.shape[place.axis])
    trailing = len(op.params["fft_lengths"]) if op.kind == "fft" else _TRAILING.get(op.kind, 0)
    _check(place.axis < len(first) - trailing)
    return place


def _reduced(op: Op, operands: Sequence[Value]) -> Place:
    if len(op.shape) == len(operands[0].shape):  # reduce_window_sum, reduce_precision
        return _same(op, operands)
    place, axes = _one(v.place for v in operands), _along(op.params)
    _check(place.axis not in axes, "reduces over the batch")
    return place._replace(axis=place.axis - sum(a < place.axis for a in axes))


def _dot(op: Op, operands: Sequence[Value]) -> Place:
    found, skipped = [], []
    for value, summed, beside in zip(operands, *op.params["dimension_numbers"], strict=True):
        free = [a for a in range(len(value.shape)) if a not in (*beside, *summed)]
        if value.place is not None:
            _check(value.place.axis not in summed, "sums over the batch")
            order = [*beside, *skipped, *free]
            found.append(value.place._replace(axis=order.index(value.place.axis)))
        skipped = [None] * len(free)
    return _one(found)


def _conv(op: Op, operands: Sequence[Value]) -> Place:
    numbers, (x, kernel) = op.params["dimension_numbers"], (v.place for v in operands)
    if kernel is None:
        _check(x.axis == numbers.lhs_spec[0] and op.params.get("batch_group_count", 1) == 1)
        return x._replace(axis=numbers.out_spec[0])
    # a kernel for each image: `vmap` makes a group of each
    axis, groups = numbers.out_spec[1], op.params["feature_group_count"]
    _check(x is not None and isinstance(groups, Size) and not groups.r)
    for value, a in zip(operands, (numbers.lhs_spec[1], numbers.rhs_spec[0]), strict=True):
        _check(value.place == Place(a, value.shape[a].q))
    return Place(axis, op.shape[axis].q)


def _reshaped(op: Op, operands: Sequence[Value]) -> Place:
    shape, place = operands[0]
    axis = next((a for a, size in enumerate(op.shape) if size.q), None)
    _check(axis is not None)
    if not place.inside and op.shape[axis] == shape[place.axis]:
        return place._replace(axis=axis)
    # [outside, batch, inside]: what every array that holds the images in order is, flat
    inside = max(place.inside, 1)
    outside = shape[place.axis].q // inside * _count(shape[: place.axis])
    inside *= _count(shape[place.axis + 1 :])
    before, after = _count(op.shape[:axis]), _count(op.shape[axis + 1 :])
    _check(inside % after == outside % before == 0)
    return Place(axis, inside // after)


def _count(shape: Sequence[Size]) -> int:
    return math.prod(max(size.r, 1) for size in shape)


def _followed(op: Op, operands: Sequence[Value]) -> Place:
    """Follows the batch axis by the facts of a kind."""
    place, kind = _one(v.place for v in operands), kind_of(op)
    shapes = tuple(v.shape for v in operands)
    reduces = len(op.shape) < len(shapes[0])
    mixed = kind.mixes(op, shapes)
    _check(place.axis not in mixed, "reduces over the batch" if reduces else _MIXES)
    origin = kind.origin(op, shapes)
    _check(place.axis in origin)
    return place._replace(axis=origin.index(place.axis))


def _joined(op: Op, operands: Sequence[Value]) -> Place:
    place = _one(v.place for v in operands)
    _check(all(v.place for v in operands))
    return place


def _sliced(op: Op, operands: Sequence[Value]) -> Place:
    (shape, place), strides = operands[0], op.params["strides"]
    start, limit = (op.params[k][place.axis] for k in ("start_indices", "limit_indices"))
    step = 1 if strides is None else strides[place.axis]
    _check(step == 1 and start == 0 and limit == shape[place.axis], "takes some images of a batch")
    return place


def _padded(op: Op, operands: Sequence[Value]) -> Place:
    place = operands[0].place
    _check(place is not None and tuple(op.params["padding_config"][place.axis]) == (0, 0, 0))
    return place


def _gathered(op: Op, operands: Sequence[Value]) -> Place:
    numbers, (x, index) = op.params["dimension_numbers"], operands
    picked = [a for a in range(len(op.shape)) if a not in numbers.offset_dims]
    found = []
    if index.place is not None:
        found.append(index.place._replace(axis=picked[index.place.axis]))
    if x.place is not None and x.place.axis in numbers.operand_batching_dims:
        beside = numbers.operand_batching_dims.index(x.place.axis)
        along = numbers.start_indices_batching_dims[beside]
        found.append(x.place._replace(axis=picked[along]))
    elif x.place is not None:
        axis, gone = x.place.axis, (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        # a piece as long as the axis starts at 0, whatever the index says
        whole = op.params["slice_sizes"][axis] == x.shape[axis]
        _check(whole and axis not in gone, "takes some images of a batch")
        kept = [a for a in range(len(x.shape)) if a not in gone]
        found.append(x.place._replace(axis=numbers.offset_dims[kept.index(axis)]))
    return _one(found)


def _scattered(op: Op, operands: Sequence[Value]) -> Place:
    numbers, (x, index, update) = op.params["dimension_numbers"], operands
    _check(x.place is not None and update.place is not None)
    axis, beside = x.place.axis, numbers.operand_batching_dims
    windows = numbers.update_window_dims
    if axis in beside:
        picked = [a for a in range(len(update.shape)) if a not in windows]
        along = picked[numbers.scatter_indices_batching_dims[beside.index(axis)]]
    else:
        gone = (*numbers.inserted_window_dims, *beside)
        _check(axis not in (*gone, *numbers.scatter_dims_to_operand_dims) and index.place is None)
        along = windows[[a for a in range(len(x.shape)) if a not in gone].index(axis)]
    _check(update.place.axis == along and update.shape[along] == x.shape[axis])
    return _one([x.place, update.place._replace(axis=axis)])


def _written(op: Op, operands: Sequence[Value]) -> Place:
    _check(operands[0].place is not None and operands[1].place is not None)
    return _same(op, operands)


# what a window over one image at a time says of their axis
_ALONE = {"window_dimensions": 1, "window_strides": 1, "padding": (0, 0), "base_dilation": 1}
# kinds that mix so many last axes, and have no parameter that says so
_TRAILING = {"svd": 2, "qr": 2, "geqrf": 2, "householder_product": 2, "lu": 2}
Rule = Callable[[Op, Sequence[Value]], Place]
# kinds of a rule of their own
RULES: dict[str, Rule] = {
    "dot_general": _dot,
    "conv_general_dilated": _conv,
    "reshape": _reshaped,
    "concatenate": _joined,
    "slice": _sliced,
    "pad": _padded,
    "gather": _gathered,
    "dynamic_update_slice": _written,
    "rev": _same,  # turns what lies along an axis
}
# of kinds that no facts are known of, by their name up to the first _
_UNKNOWN = {"reduce": _reduced, "argmax": _reduced, "argmin": _reduced, "scatter": _scattered}


def _rule(op: Op) -> Rule:
    """Returns the rule of an op; one of an unknown kind must leave the axis as it is."""
    if op.kind in RULES:
        return RULES[op.kind]
    if family(op) in (MOVE, ORDER, SUM, REDUCE):
        return _followed
    return _UNKNOWN.get(op.kind.replace("-", "_").partition("_")[0], _same)
