"""Look-ups of places that are computed, as ONNX nodes."""

from __future__ import annotations

import numpy as np
from jax import lax

from hcjax.export.onnx.movement import size_of
from hcjax.export.onnx.writer import Writer, refuse
from hcjax.graph.model import Op, Size


def gather(w: Writer, op: Op) -> None:
    """Writes a look-up of rows, or of places along several axes."""
    x, index = op.inputs
    numbers, pieces = (
        lax.GatherDimensionNumbers(*op.params["dimension_numbers"]),
        op.params["slice_sizes"],
    )
    shape, indexed = w.shape(x), tuple(numbers.start_index_map)
    batching = tuple(numbers.operand_batching_dims)
    rest = [a for a in range(len(shape)) if a not in indexed + batching]
    if any(pieces[a] != 1 for a in indexed) or any(size_of(pieces[a]) != shape[a] for a in rest):
        raise refuse(op, "takes pieces longer than 1 from places that are computed")
    constant, last = w.constant(index), len(w.shape(index)) - 1
    along = tuple(numbers.start_indices_batching_dims)  # what the batching axes are in the index
    order = [*along, *(a for a in range(last) if a not in along), last]
    clipped, beyond = _clip(w, op, index, [shape[a] for a in indexed], order)
    if len(indexed) == 1 and not batching:
        (axis,) = indexed
        name = w.get(x, [axis, *rest])
        if constant is None:
            places = w.node("Squeeze", [clipped, w.const([last], np.int64)])
        else:
            places = (
                w.const(np.asarray(constant)[..., 0].clip(0, max(shape[axis].r - 1, 0)), np.int64)
                if not shape[axis].q
                else w.node("Squeeze", [clipped, w.const([last], np.int64)])
            )
        name = w.node("Gather", [name, places], axis=0)
    else:
        name = w.get(x, [*batching, *indexed, *rest])
        name = w.node("GatherND", [name, clipped], batch_dims=len(batching))
    if beyond is not None:
        mask = w.node(
            "Unsqueeze", [beyond, w.const([last + i for i in range(len(rest))], np.int64)]
        )
        never = np.nan if w.dtype(x).kind == "f" else np.iinfo(w.dtype(x)).min
        never = np.iinfo(w.dtype(x)).max if w.dtype(x).kind == "u" else never
        name = w.node("Where", [mask, w.const(never, w.dtype(x)), name])
    # now: axes of the index, then the rest; an indexed axis that is not collapsed has size 1
    places = [a for a in range(len(op.shape)) if a not in numbers.offset_dims]
    places = [places[a] for a in order[:-1]]
    windows = [a for a in range(len(shape))
               if a not in (*numbers.collapsed_slice_dims, *batching)]  # fmt: skip
    offsets = dict(zip(windows, numbers.offset_dims, strict=True))
    units = [offsets[a] for a in indexed if a in offsets]
    perm = [*places, *(offsets[a] for a in rest), *units]
    if units:
        end = [len(perm) - len(units) + i for i in range(len(units))]
        name = w.node("Unsqueeze", [name, w.const(end, np.int64)])
    w.put(op.output, name, perm)


def _clip(
    w: Writer, op: Op, index: int, sizes: list[Size], order: list[int]
) -> tuple[str, str | None]:
    """Returns the places within an array, and which were not if jax fills these with NaN."""
    found = w.cast(w.get(index, order), np.int64)
    most = [w.node("Sub", [w.size(size), w.const([1], np.int64)]) if size.q else
            w.const([size.r - 1], np.int64) for size in sizes]  # fmt: skip
    most_name = most[0] if len(most) == 1 else w.node("Concat", most, axis=0)
    zero = w.const(0, np.int64)
    inside = w.node("Min", [w.node("Max", [found, zero]), most_name])
    if "FILL" not in str(op.params["mode"]):
        return inside, None
    constant = w.constant(index)
    if constant is not None and not any(size.q for size in sizes):
        ends = np.array([size.r - 1 for size in sizes])
        if ((constant >= 0) & (constant <= ends)).all():
            return inside, None
    moved = w.node("Not", [w.node("Equal", [inside, found])])
    flags = w.node("ReduceMax", [w.cast(moved, np.int32), w.const([-1], np.int64)], keepdims=0)
    return inside, w.cast(flags, np.bool_)


EMITTERS = {"gather": gather}
