"""The lowering rule of each kind of op: it adds integer ops and records the form of the result.

A rule returns False for an op that it cannot lower; the op then stays in float, and is listed.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.graph.axes import channel_axis
from hcjax.graph.model import Op, Size
from hcjax.graph.ops.kind import CAST, ELEMENTWISE, MOVE, ORDER, SUM
from hcjax.graph.ops.layers import products
from hcjax.graph.ops.table import computes, defined, family, kind_of
from hcjax.quantize.lowering import conversion, elementwise, zero_points
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.lowering.forms import Accumulator, Int8, Term

_EXACT = 2**24  # float32 holds every integer below


def place(b: Builder, op: Op) -> None:
    """Lowers an op: records the form of its result, or leaves it in float.

    What reads or computes numbers that stand for "never" stays in float: they are far from all
    others, and one scale cannot hold both.
    """
    read = b.activations(op)
    for output in op.outputs:
        b.label[output] = b.label_of(read[0])
    masked = b.ranges.masked.intersection((*op.inputs, *op.outputs))
    rule = None if masked else _rule(b, op)
    if rule is None or not rule(b, op):
        conversion.leave_in_float(b, op)


def _rule(b: Builder, op: Op) -> Callable[[Builder, Op], bool] | None:
    """Returns the rule of an op; None if it stays in float.

    Booleans and indices can only be part of a look-up table.
    """
    discrete = [i for i in b.activations(op) if not _is_float(b, i)]
    if not discrete:
        return (RULES.get(op.kind) or FAMILIES.get(family(op))) if kind_of(op) else None
    if op.kind == "gather" and kind_of(op):
        return _lower_gather
    elementwise_op = family(op) in (ELEMENTWISE, CAST)
    return (
        elementwise.lower_function
        if elementwise_op and all(b.forms[i].lookup for i in discrete)
        else None
    )


def _lower_layer(b: Builder, op: Op) -> bool:
    axis = channel_axis(op, b.constants)
    activations = b.activations(op)
    if (
        axis is None
        or len(activations) != 1
        or (len(op.inputs) == 3 and op.inputs[2] not in b.constants)
    ):
        return False
    side = op.inputs[:2].index(activations[0])
    if b.in_float(b.layer(op, op.inputs[1 - side])):
        return False
    kernel, scales, qmax, name = b.kernel(op, op.inputs[1 - side])
    q = conversion.input_of(b, activations[0], name)
    if q.zero and op.kind == "conv_general_dilated":
        padded = zero_points.padded(b, op, activations[0], q)
        if padded is None:
            return False
        op, q = padded
    numbers = (q.number, kernel) if side == 0 else (kernel, q.number)
    shapes = [
        tuple(s.q + s.r for s in b.shape[activations[0]]),
        b.constants[op.inputs[1 - side]].shape,
    ]
    count = products(op, shapes if side == 0 else shapes[::-1])
    shape = b.scale_shape(axis, len(op.shape))
    scale = b.emit(
        "scale",
        (q.scale, scales),
        lambda batch, s, w: s * w.reshape(shape),
        shape=tuple(Size(0, op.shape[axis].r if n < 0 else 1) for n in shape),
    )
    bias = own = offset = None
    along = [-1 if a == axis else 1 for a in range(len(op.shape))]
    if len(op.inputs) == 3:
        bias = b.operand(op.inputs[2], f"{name}/bias")
        own = b.emit("offset", (bias,), lambda batch, t: t.astype(jnp.float32).reshape(along))
        offset = own
    far = not q.qmin <= q.zero <= q.qmax
    if q.zero:
        weights = b.operand(op.inputs[1 - side], f"{name}/kernel") if far else None
        offset = zero_points.layer_offset(
            b, q.zero, (kernel, scales, scale, weights, own), b.channels(op), along
        )
    fields = {"of": op.output, "macs": op.macs, "source": op.source, **op.params}
    # for bias correction and rounding: the offset beside sums of (q - center) · kernel
    centered = (0, offset) if far else (q.zero, own)
    fields["layer"] = (op.output, name, axis, scale, offset, bias, *centered)
    term = _product(b, op, numbers, count * q.bound * qmax, fields)
    b.label[op.output] = name
    b.forms[op.output].accumulator = Accumulator((term(scale),), offset)
    return True


def _product(b: Builder, op: Op, numbers: tuple[int, int], bound: int, fields: dict) -> Callable:
    """Emits a product of integers; returns scale -> Term."""
    smooth = computes(op.kind, op.params | {"preferred_element_type": jnp.float32})
    if bound < _EXACT:
        new = b.emit(op.kind, numbers, smooth, **fields)
        return lambda scale: Term(new, new, scale, bound)

    def exact(batch, x, y):
        return smooth(batch, x.astype(jnp.int8), y.astype(jnp.int8))

    new = b.emit(op.kind, numbers, exact, dtype=jnp.int32, **fields)
    gradient = b.emit(op.kind, numbers, smooth, **fields | {"macs": 0})
    return lambda scale: Term(new, gradient, scale, bound)


def _lower_dense(b: Builder, op: Op) -> bool:
    if len(b.activations(op)) == 1:
        return _lower_layer(b, op)
    if len(op.inputs) != 2:
        return False
    left, right = (conversion.symmetric_of(b, i) for i in op.inputs)
    shapes = [tuple(s.q + s.r for s in b.shape[i]) for i in op.inputs]
    bound = products(op, shapes) * left.bound * right.bound
    fields = {"of": op.output, "macs": op.macs, "source": op.source, **op.params}
    term = _product(b, op, (left.number, right.number), bound, fields)
    scale = b.emit("scale", (left.scale, right.scale), lambda batch, s, t: s * t)
    b.forms[op.output].accumulator = Accumulator((term(scale),))
    return True


def _lower_move(b: Builder, op: Op) -> bool:
    activations = b.activations(op)
    floating = jnp.issubdtype(op.dtype, jnp.floating) and len(op.outputs) == 1
    if len(activations) != 1 or op.inputs[0] != activations[0] or not floating:
        return False
    q = conversion.int8_of(b, activations[0])
    fields = {**op.params, "source": op.source}

    def compute(batch, x, *rest):  # padding takes the dtype of x
        return op.run_one(batch, x, *(r.astype(x.dtype) if _floating(r) else r for r in rest))

    new = b.emit(op.kind, (q.number, *_constant_operands(b, op)), compute, of=op.output, **fields)
    b.forms[op.output].int8 = q._replace(number=new)
    return True


def _lower_gather(b: Builder, op: Op) -> bool:
    """Gathers rows of a table by an index that depends on the inputs: the table is a kernel."""
    table, index = op.inputs
    if not b.is_table(op) or b.in_float(b.layer(op, table)):
        return False
    if op.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP:  # with NaN, which int8 lacks
        op = defined(op, params=op.params | {"mode": lax.GatherScatterMode.CLIP})
    rows, scale, qmax, name = b.kernel(op, table)
    b.label[op.output] = name
    numbers = (rows, conversion.float_of(b, index))
    fields = {**op.params, "source": op.source}
    new = b.emit("gather", numbers, op.run_one, of=op.output, **fields)
    b.forms[op.output].int8 = Int8(new, scale, -qmax, qmax)
    return True


def _floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _constant_operands(b: Builder, op: Op) -> tuple[int, ...]:
    return tuple(b.operand(i, f"{op.kind}/value") for i in op.inputs[1:])


def _lower_cast(b: Builder, op: Op) -> bool:
    (number,) = b.activations(op)
    if not jnp.issubdtype(op.dtype, jnp.floating):
        return elementwise.lower_function(b, op)
    before, after = b.forms[number], b.forms[op.output]
    after.int8, after.accumulator = before.int8, before.accumulator
    if b.forms[number].lookup:
        elementwise.lower_function(b, op)
    if not (after.int8 or after.accumulator or after.lookup):
        b.forms[op.output].int8 = conversion.int8_of(b, number)
    return True


def _is_float(b: Builder, number: int) -> bool:
    return jnp.issubdtype(b.dtype.get(number, jnp.float32), jnp.floating)


def _lower_pad(b: Builder, op: Op) -> bool:
    value = np.asarray(b.constants.get(op.inputs[1], np.nan), np.float32)
    if value != 0:  # NaN is
        return False
    q = conversion.int8_of(b, op.inputs[0])
    if not q.zero:
        return _lower_move(b, op)
    b.forms[op.output].int8 = zero_points.pad(b, op, q)
    return b.forms[op.output].int8 is not None


def _lower_sum(b: Builder, op: Op) -> bool:
    (number,) = b.activations(op)
    q = conversion.int8_of(b, number)
    count = kind_of(op).terms(op, (b.shape[number],))
    if not count:  # a sum over the batch
        return False
    offset = None
    if q.zero:
        counts = zero_points.counts(b, op, number)
        if counts is None:
            return False
        offset = b.zero_offset(q.scale, q.zero, counts)
    fields = {**op.params, "source": op.source}
    new = b.emit(op.kind, (q.number,), op.run_one, of=op.output, **fields)
    term = Term(new, new, q.scale, count * q.bound)
    b.forms[op.output].accumulator = Accumulator((term,), offset)
    return True


def _lower_slice(b: Builder, op: Op) -> bool:
    """Slices a sum before it is requantized, where slices of unlike range get scales of their own.

    One scale for boxes and classes in one output of a detector would leave one of them no levels.
    """
    (number,) = b.activations(op)
    acc = b.forms[number].accumulator
    if acc is None or b.forms[number].int8 or acc.empty or not _unlike(b, number):
        return _lower_move(b, op)
    bounds = [op.params[k] for k in ("start_indices", "limit_indices", "strides")]
    strides = bounds[2] or (1,) * len(bounds[0])
    chosen = [slice(*each) for each in zip(*bounds[:2], strides, strict=True)]
    chosen = [slice(None) if size.q else c for size, c in zip(b.shape[number], chosen, strict=True)]

    def cut(batch, x):  # a scale or an offset, of size 1 along the axes on which it is constant
        return x[tuple(c if n > 1 else slice(None) for c, n in zip(chosen, x.shape, strict=False))]

    def sliced(kind, constant):
        full = b.shape_of(constant)
        sizes = [n if s.r > 1 else s for s, n in zip(full, op.shape, strict=False)]
        return b.emit(kind, (constant,), cut, shape=tuple(sizes))

    fields = {**op.params, "of": op.output, "source": op.source, "dtype": jnp.int32}
    terms = []
    for term in acc.terms:
        new = b.emit("slice", (term.number,), op.run_one, **fields)
        same = term.smooth == term.number
        smooth = new if same else b.emit("slice", (term.smooth,), op.run_one, **fields)
        terms.append(Term(new, smooth, sliced("scale", term.scale), term.bound))
    offset = None if acc.offset is None else sliced("offset", acc.offset)
    b.forms[op.output].accumulator = acc._replace(terms=tuple(terms), offset=offset)
    return True


def _unlike(b: Builder, number: int) -> bool:
    """Returns whether all that reads a value are slices of it, with ranges that differ by 2."""
    readers = b.consumers.get(number, ())
    if len(readers) < 2 or any(op.kind != "slice" or kind_of(op) is None for op in readers):
        return False
    widths = [max(-b.ranges.low[op.output], b.ranges.high[op.output]) for op in readers]
    return max(widths) > 2 * min(widths)


def _lower_concatenate(b: Builder, op: Op) -> bool:
    if b.only_output(op.output):
        # no arithmetic follows, so each part keeps its own scale
        conversion.join_in_float(b, op)
        return True
    qparams = b.qparams(op.output)
    parts = [
        conversion.broadcast_int8(b, op, i, qparams)
        if i in b.constants
        else conversion.int8_with(b, i, qparams)
        for i in op.inputs
    ]
    if None in parts or any(q.scale != qparams.scale for q in parts):
        return False
    numbers = tuple(q.number for q in parts)
    fields = {**op.params, "source": op.source}
    new = b.emit("concatenate", numbers, op.run_one, of=op.output, **fields)
    qmin, qmax = min(q.qmin for q in parts), max(q.qmax for q in parts)
    b.forms[op.output].int8 = Int8(new, qparams.scale, qmin, qmax, qparams.zero)
    return True


# kind -> rule
RULES: dict[str, Callable[[Builder, Op], bool]] = {
    "conv_general_dilated": _lower_layer,
    "dot_general": _lower_dense,
    "pad": _lower_pad,
    "slice": _lower_slice,
    "concatenate": _lower_concatenate,
    "convert_element_type": _lower_cast,
    **elementwise.RULES,
}
# family -> default rule of its kinds
FAMILIES: dict[str, Callable[[Builder, Op], bool]] = {
    **dict.fromkeys((MOVE, ORDER), _lower_move),
    SUM: _lower_sum,
    ELEMENTWISE: elementwise.lower_function,
}
