"""The batch axis: checks that the logits of an image depend on that image alone.

Every value that holds the images of a batch along one of its axes has a `Place`. A rule for each
kind of op follows it. An op that mixes images, or that no rule can follow, raises an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from hcjax.graph.model import Graph, Op, Size
from hcjax.graph.ops.kind import BODY, MOVE, ORDER, REDUCE, SUM
from hcjax.graph.ops.table import family, kind_of

Shape = tuple[Size, ...]


class Place(NamedTuple):
    """Where a value holds the images of a batch.

    axis: of q · batch indices. per_image: count of successive indices that belong to one image; 0
    for a value that is the same at all of them.
    """

    axis: int
    per_image: int


class Value(NamedTuple):
    """An operand of a rule: its shape, and its place if it has one."""

    shape: Shape
    place: Place | None


def find_places(op: Op, operands: Sequence[Value], shapes: Sequence[Shape]) -> list[Place | None]:
    """Returns where an op's results hold the images.

    Args:
      op: as traced.
      operands: shape and place of each operand.
      shapes: of its results.

    Raises:
      ValueError: if a result at one image could depend on others; the message names the way.

    Example:
      >>> images, sizes = Value((Size(1, 0), Size(0, 4)), Place(0, 1)), (Size(0, 4), Size(1, 0))
      >>> op = Op("transpose", (1,), (2,), sizes, None, "", None, {"permutation": (1, 0)})
      >>> find_places(op, [images], [sizes])
      [Place(axis=1, per_image=1)]
    """
    if all(v.place is None for v in operands):
        return [_place_constant(op, shape) for shape in shapes]
    if op.kind == "optimization_barrier":
        return [v.place for v in operands]
    if all(Size(0, 0) in shape for shape in shapes):
        return [_place_empty(shape) for shape in shapes]
    if family(op) == BODY:
        place = _follow_bodies(op, operands)
        if place is None:
            return [_place_constant(op, shape) for shape in shapes]
    else:
        place = _find_rule(op)(op, operands)
    for shape in shapes:
        if [a for a, size in enumerate(shape) if size.q] != [place.axis] or shape[place.axis].r:
            raise ValueError(_MIXING)
    return [place] * len(shapes)


_MIXING = "mixes the images of a batch"


def _require(condition: bool, message: str = _MIXING) -> None:
    if not condition:
        raise ValueError(message)


def _place_constant(op: Op, shape: Shape) -> Place | None:
    """Returns the place of a value that is the same for every image; None without a batch axis."""
    axes = [a for a, size in enumerate(shape) if size.q]
    if not axes:
        return None
    constant = op.kind == "broadcast_in_dim" or op.params.get("dimension", axes[0]) != axes[0]
    _require(constant, "counts the images of a batch")
    _require(len(axes) == 1 and not shape[axes[0]].r)
    return Place(axes[0], 1 if shape[axes[0]].q == 1 else 0)


def _place_empty(shape: Shape) -> Place | None:
    """Returns the place of a value without elements, which no image can change."""
    axes = [a for a, size in enumerate(shape) if size.q]
    _require(len(axes) < 2)
    return Place(axes[0], shape[axes[0]].q) if axes else None


def _merge(places: Iterable[Place | None]) -> Place:
    """Returns the place that several values share."""
    places = set(places) - {None}
    candidates = {p for p in places if p.per_image} or places
    _require(len(candidates) == 1 and len({p.axis for p in places}) == 1)
    return candidates.pop()


def _get_axes(params: dict) -> set[int]:
    """Returns the axes among an equation's params."""
    values = [params.get(name) for name in ("axis", "axes", "dimension", "dimensions")]
    return {a for v in values if v is not None for a in (v if isinstance(v, tuple) else (v,))}


def _keep(op: Op, operands: Sequence[Value]) -> Place:
    place = _merge(v.place for v in operands)
    window = [(name, op.params[name][place.axis]) for name in _TRIVIAL if op.params.get(name)]
    trivial = all(n == _TRIVIAL[name] for name, n in window)
    _require(place.axis not in _get_axes(op.params) and trivial)
    first = next(v.shape for v in operands if v.place is not None)
    trailing = len(op.params["fft_lengths"]) if op.kind == "fft" else _TRAILING.get(op.kind, 0)
    _require(place.axis < len(first) - trailing)
    _require(len(first) == len(op.shape) or (trailing and place.axis < len(op.shape)))
    _require(first[place.axis] == op.shape[place.axis])
    return place


def _reduce(op: Op, operands: Sequence[Value]) -> Place:
    if len(op.shape) == len(operands[0].shape):  # reduce_window_sum, reduce_precision
        return _keep(op, operands)
    place, axes = _merge(v.place for v in operands), _get_axes(op.params)
    _require(place.axis not in axes, "reduces over the batch")
    return place._replace(axis=place.axis - sum(a < place.axis for a in axes))


def _contract(op: Op, operands: Sequence[Value]) -> Place:
    places, free_axes = [], []
    for value, contracted, batch in zip(operands, *op.params["dimension_numbers"], strict=True):
        others = [a for a in range(len(value.shape)) if a not in (*batch, *contracted)]
        if value.place is not None:
            _require(value.place.axis not in contracted, "sums over the batch")
            order = [*batch, *free_axes, *others]
            places.append(value.place._replace(axis=order.index(value.place.axis)))
        free_axes = [None] * len(others)
    return _merge(places)


def _convolve(op: Op, operands: Sequence[Value]) -> Place:
    numbers, (x, kernel) = op.params["dimension_numbers"], (v.place for v in operands)
    if kernel is None:
        _require(x.axis == numbers.lhs_spec[0] and op.params.get("batch_group_count", 1) == 1)
        return x._replace(axis=numbers.out_spec[0])
    # one kernel per image: `vmap` makes one group per image
    axis, groups = numbers.out_spec[1], op.params["feature_group_count"]
    _require(x is not None and isinstance(groups, Size) and not groups.r)
    for value, a in zip(operands, (numbers.lhs_spec[1], numbers.rhs_spec[0]), strict=True):
        _require(value.place == Place(a, value.shape[a].q))
    return Place(axis, op.shape[axis].q)


def _reshape(op: Op, operands: Sequence[Value]) -> Place:
    shape, place = operands[0]
    axis = next((a for a, size in enumerate(op.shape) if size.q), None)
    _require(axis is not None)
    if not place.per_image and op.shape[axis] == shape[place.axis]:
        return place._replace(axis=axis)
    # every array that holds the images in order is, flat, [outer, batch, inner]
    inner = max(place.per_image, 1)
    outer = shape[place.axis].q // inner * _count(shape[: place.axis])
    inner *= _count(shape[place.axis + 1 :])
    before, after = _count(op.shape[:axis]), _count(op.shape[axis + 1 :])
    _require(inner % after == outer % before == 0)
    return Place(axis, inner // after)


def _count(shape: Sequence[Size]) -> int:
    return math.prod(max(size.r, 1) for size in shape)


def _follow_facts(op: Op, operands: Sequence[Value]) -> Place:
    """Follows the batch axis by the facts of a kind."""
    place, kind = _merge(v.place for v in operands), kind_of(op)
    shapes = tuple(v.shape for v in operands)
    reduces = len(op.shape) < len(shapes[0])
    mixes = kind.mixes(op, shapes)
    _require(place.axis not in mixes, "reduces over the batch" if reduces else _MIXING)
    origin = kind.origin(op, shapes)
    _require(place.axis in origin)
    return place._replace(axis=origin.index(place.axis))


def _join(op: Op, operands: Sequence[Value]) -> Place:
    place = _merge(v.place for v in operands)
    _require(all(v.place for v in operands))
    return place


def _slice(op: Op, operands: Sequence[Value]) -> Place:
    (shape, place), strides = operands[0], op.params["strides"]
    start, limit = (op.params[k][place.axis] for k in ("start_indices", "limit_indices"))
    step = 1 if strides is None else strides[place.axis]
    full = step == 1 and start == 0 and limit == shape[place.axis]
    _require(full, "takes some images of a batch")
    return place


def _pad(op: Op, operands: Sequence[Value]) -> Place:
    place = operands[0].place
    _require(place is not None and tuple(op.params["padding_config"][place.axis]) == (0, 0, 0))
    return place


def _gather(op: Op, operands: Sequence[Value]) -> Place:
    numbers, (x, index) = op.params["dimension_numbers"], operands
    batch_axes = [a for a in range(len(op.shape)) if a not in numbers.offset_dims]
    places = []
    if index.place is not None:
        places.append(index.place._replace(axis=batch_axes[index.place.axis]))
    if x.place is not None and x.place.axis in numbers.operand_batching_dims:
        pair = numbers.operand_batching_dims.index(x.place.axis)
        axis_of_index = numbers.start_indices_batching_dims[pair]
        places.append(x.place._replace(axis=batch_axes[axis_of_index]))
    elif x.place is not None:
        axis = x.place.axis
        removed = (*numbers.collapsed_slice_dims, *numbers.operand_batching_dims)
        # a slice as long as the axis starts at 0 for any index
        full = op.params["slice_sizes"][axis] == x.shape[axis]
        _require(full and axis not in removed, "takes some images of a batch")
        window_axes = [a for a in range(len(x.shape)) if a not in removed]
        places.append(x.place._replace(axis=numbers.offset_dims[window_axes.index(axis)]))
    return _merge(places)


def _scatter(op: Op, operands: Sequence[Value]) -> Place:
    numbers, (x, index, update) = op.params["dimension_numbers"], operands
    _require(x.place is not None and update.place is not None)
    axis, batching = x.place.axis, numbers.operand_batching_dims
    windows = numbers.update_window_dims
    if axis in batching:
        batch_axes = [a for a in range(len(update.shape)) if a not in windows]
        update_axis = batch_axes[numbers.scatter_indices_batching_dims[batching.index(axis)]]
    else:
        removed = (*numbers.inserted_window_dims, *batching)
        indexed = numbers.scatter_dims_to_operand_dims
        _require(axis not in (*removed, *indexed) and index.place is None)
        update_axis = windows[[a for a in range(len(x.shape)) if a not in removed].index(axis)]
    _require(update.place.axis == update_axis and update.shape[update_axis] == x.shape[axis])
    return _merge([x.place, update.place._replace(axis=axis)])


def _write(op: Op, operands: Sequence[Value]) -> Place:
    _require(operands[0].place is not None and operands[1].place is not None)
    return _keep(op, operands)


def _follow_bodies(op: Op, operands: Sequence[Value]) -> Place | None:
    """Follows the batch axis through a loop or a branch, by the rules of the ops inside."""
    if op.kind == "scan":
        return _follow_scan(op, operands)
    index, *others = operands
    _require(index.place is None, "takes a branch by the images of a batch")
    places = {_run(graph, others)[op.params["result"]] for graph in op.params["branches"]}
    _require(len(places - {None}) < 2)
    return next(iter(places - {None}), None)


def _follow_scan(op: Op, operands: Sequence[Value]) -> Place | None:
    fixed, carry = op.params["constants"], op.params["carry"]
    inside = list(operands[: fixed + carry])
    for value in operands[fixed + carry :]:
        _require(value.place is None or value.place.axis != 0, "loops over the images of a batch")
        place = value.place and value.place._replace(axis=value.place.axis - 1)
        inside.append(Value(value.shape[1:], place))
    results = _run(op.params["body"], inside)
    for value, result in zip(inside[fixed:], results[:carry], strict=False):
        _require(value.place == result or (value.place is None and not value.shape))
    place = results[op.params["result"]]
    stacked = op.params["result"] >= carry
    return place._replace(axis=place.axis + 1) if place and stacked else place


def _run(graph: Graph, operands: Sequence[Value]) -> list[Place | None]:
    """Returns where the results of a body hold the images."""
    values = dict(zip(graph.inputs, operands, strict=True))
    for op in graph.ops:
        read = [values[i] for i in op.inputs]
        shapes = [op.shape] if len(op.outputs) == 1 else [v.shape for v in read]
        places = find_places(op, read, shapes)
        values |= zip(op.outputs, map(Value, shapes, places), strict=True)
    return [values[number].place for number in graph.outputs]


# params of a window, on the axis of the images, that covers one image
_TRIVIAL = {"window_dimensions": 1, "window_strides": 1, "padding": (0, 0), "base_dilation": 1}
# kinds that mix this many last axes, without a parameter for it
_TRAILING = {
    **dict.fromkeys(("svd", "qr", "geqrf", "geqp3", "householder_product", "lu", "cholesky"), 2),
    **dict.fromkeys(("eig", "eigh", "schur", "hessenberg", "tridiagonal"), 2),
    **dict.fromkeys(("lu_pivots_to_permutation", "tridiagonal_solve"), 1),
}
Rule = Callable[[Op, Sequence[Value]], Place]
# kinds with a rule of their own
RULES: dict[str, Rule] = {
    "dot_general": _contract,
    "conv_general_dilated": _convolve,
    "reshape": _reshape,
    "concatenate": _join,
    "slice": _slice,
    "pad": _pad,
    "gather": _gather,
    "dynamic_update_slice": _write,
    "rev": _keep,  # reverses an axis
}
# kinds without facts, by their name up to the first _
_RULES_BY_PREFIX = {"reduce": _reduce, "argmax": _reduce, "argmin": _reduce, "scatter": _scatter}


def _find_rule(op: Op) -> Rule:
    """Returns the rule of an op; by default its results keep the axis."""
    if op.kind in RULES:
        return RULES[op.kind]
    if family(op) in (MOVE, ORDER, SUM, REDUCE):
        return _follow_facts
    return _RULES_BY_PREFIX.get(op.kind.replace("-", "_").partition("_")[0], _keep)
