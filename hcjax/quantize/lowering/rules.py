"""Where the integer program rounds: for each kind of op, in which form its result is written down.

A rule returns False where it does not hold; the op then stays in float, and is listed.
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
from hcjax.graph.ops.table import computes, family, kind_of
from hcjax.quantize.lowering import conversion, elementwise
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.lowering.forms import Accumulator, Int8, Term

_EXACT = 2**24  # below it float32 holds every whole number


def place(b: Builder, op: Op) -> None:
    """Writes down what an op gives, in the form that it makes."""
    read = b.read(op)
    for output in op.outputs:
        b.label[output] = b.label_of(read[0])
    rule = _rule(b, op)
    if rule is None or not rule(b, op):
        conversion.leave(b, op)


def _rule(b: Builder, op: Op) -> Callable[[Builder, Op], bool] | None:
    """Returns the rule for an op; truth values and indices are part of a table, or have none."""
    whole = [i for i in b.read(op) if not _is_float(b, i)]
    if not whole:
        return (RULES.get(op.kind) or FAMILIES.get(family(op))) if kind_of(op) else None
    if op.kind == "gather" and kind_of(op):
        return _gathered
    elementwise_op = family(op) in (ELEMENTWISE, CAST)
    return (
        elementwise.function if elementwise_op and all(b.forms[i].lookup for i in whole) else None
    )


def _layer(b: Builder, op: Op) -> bool:
    axis = channel_axis(op, b.known)
    inside = b.read(op)
    if axis is None or len(inside) != 1 or (len(op.inputs) == 3 and op.inputs[2] not in b.known):
        return False
    side = op.inputs[:2].index(inside[0])
    if b.in_float(b.layer(op, op.inputs[1 - side])):
        return False
    kernel, steps, most, name = b.kernel(op, op.inputs[1 - side])
    q = conversion.input_of(b, inside[0], name)
    numbers = (q.number, kernel) if side == 0 else (kernel, q.number)
    shapes = [tuple(s.q + s.r for s in b.shape[inside[0]]), b.known[op.inputs[1 - side]].shape]
    count = products(op, shapes if side == 0 else shapes[::-1])
    beside = b.along(axis, len(op.shape))
    scale = b.emit(
        "scale",
        (q.scale, steps),
        lambda batch, s, w: s * w.reshape(beside),
        shape=tuple(Size(0, op.shape[axis].r if n < 0 else 1) for n in beside),
    )
    bias = offset = None
    if len(op.inputs) == 3:
        bias = b.operand(op.inputs[2], f"{name}/bias")
        along = [-1 if a == axis else 1 for a in range(len(op.shape))]
        offset = b.emit("offset", (bias,), lambda batch, t: t.astype(jnp.float32).reshape(along))
    about = {"of": op.output, "macs": op.macs, "source": op.source, **op.params}
    about["layer"] = (op.output, name, axis, scale, offset, bias)  # what `correction` reads it by
    term = _product(b, op, numbers, count * q.bound * most, about)
    b.label[op.output] = name
    b.forms[op.output].accumulator = Accumulator((term(scale),), offset)
    return True


def _product(b: Builder, op: Op, numbers: tuple[int, int], bound: int, about: dict) -> Callable:
    """Emits a product of whole numbers; returns scale -> Term."""
    smooth = computes(op.kind, op.params | {"preferred_element_type": jnp.float32})
    if bound < _EXACT:
        new = b.emit(op.kind, numbers, smooth, **about)
        return lambda scale: Term(new, new, scale, bound)

    def counted(batch, x, y):
        return smooth(batch, x.astype(jnp.int8), y.astype(jnp.int8))

    new = b.emit(op.kind, numbers, counted, dtype=jnp.int32, **about)
    slope = b.emit(op.kind, numbers, smooth, **about | {"macs": 0})
    return lambda scale: Term(new, slope, scale, bound)


def _dense(b: Builder, op: Op) -> bool:
    if len(b.read(op)) == 1:
        return _layer(b, op)
    if len(op.inputs) != 2:
        return False
    left, right = (conversion.int8_of(b, i) for i in op.inputs)
    shapes = [tuple(s.q + s.r for s in b.shape[i]) for i in op.inputs]
    bound = products(op, shapes) * left.bound * right.bound
    about = {"of": op.output, "macs": op.macs, "source": op.source, **op.params}
    term = _product(b, op, (left.number, right.number), bound, about)
    scale = b.emit("scale", (left.scale, right.scale), lambda batch, s, t: s * t)
    b.forms[op.output].accumulator = Accumulator((term(scale),))
    return True


def _moved(b: Builder, op: Op) -> bool:
    inside = b.read(op)
    floating = jnp.issubdtype(op.dtype, jnp.floating) and len(op.outputs) == 1
    if len(inside) != 1 or op.inputs[0] != inside[0] or not floating:
        return False
    q = conversion.int8_of(b, inside[0])
    about = {**op.params, "source": op.source}

    def compute(batch, x, *rest):  # bfloat16 is padded with bfloat16
        return op.run_one(batch, x, *(r.astype(x.dtype) if _floating(r) else r for r in rest))

    new = b.emit(op.kind, (q.number, *_rest(b, op)), compute, of=op.output, **about)
    b.forms[op.output].int8 = q._replace(number=new)
    return True


def _gathered(b: Builder, op: Op) -> bool:
    """Takes rows of a table, in int8, by an index that depends on the images."""
    table, index = op.inputs
    fills = op.params["mode"] == lax.GatherScatterMode.FILL_OR_DROP  # with NaN, which int8 has not
    if fills or table not in b.known or table in b.stretched or index in b.known:
        return False
    name = b.label[op.output] = b.layer(op, table)
    qparams = b.qparams(op.output)
    rows = conversion.quantized(b, b.operand(table, f"{name}/table"), qparams, label=name)
    numbers = (rows, conversion.float_of(b, index))
    about = {**op.params, "source": op.source}
    new = b.emit("gather", numbers, op.run_one, of=op.output, **about)
    b.forms[op.output].int8 = qparams.of(new)
    return True


def _floating(x: jax.Array) -> bool:
    return jnp.issubdtype(x.dtype, jnp.floating)


def _rest(b: Builder, op: Op) -> tuple[int, ...]:
    return tuple(b.operand(i, f"{op.kind}/value") for i in op.inputs[1:])


def _converted(b: Builder, op: Op) -> bool:
    (number,) = b.read(op)
    if not jnp.issubdtype(op.dtype, jnp.floating):
        return elementwise.function(b, op)
    here, there = b.forms[number], b.forms[op.output]
    there.int8, there.accumulator = here.int8, here.accumulator
    if b.forms[number].lookup:
        elementwise.function(b, op)
    if not (there.int8 or there.accumulator or there.lookup):
        b.forms[op.output].int8 = conversion.int8_of(b, number)
    return True


def _is_float(b: Builder, number: int) -> bool:
    return jnp.issubdtype(b.dtype.get(number, jnp.float32), jnp.floating)


def _padded(b: Builder, op: Op) -> bool:
    value = np.asarray(b.known.get(op.inputs[1], np.nan), np.float32)
    return bool(value == 0) and _moved(b, op)


def _summed(b: Builder, op: Op) -> bool:
    (number,) = b.read(op)
    q = conversion.int8_of(b, number)
    count = kind_of(op).terms(op, (b.shape[number],))
    if not count:  # as many as there are images
        return False
    about = {**op.params, "source": op.source}
    new = b.emit(op.kind, (q.number,), op.run_one, of=op.output, **about)
    b.forms[op.output].accumulator = Accumulator((Term(new, new, q.scale, count * q.bound),))
    return True


def _joined(b: Builder, op: Op) -> bool:
    qparams = b.qparams(op.output)
    parts = [
        conversion.alike(b, op, i, qparams) if i in b.known else conversion.regridded(b, i, qparams)
        for i in op.inputs
    ]
    if None in parts or any(q.scale != qparams.scale for q in parts):
        return False
    numbers = tuple(q.number for q in parts)
    about = {**op.params, "source": op.source}
    new = b.emit("concatenate", numbers, op.run_one, of=op.output, **about)
    least, most = min(q.qmin for q in parts), max(q.qmax for q in parts)
    b.forms[op.output].int8 = Int8(new, qparams.scale, least, most)
    return True


# primitive -> rule
RULES: dict[str, Callable[[Builder, Op], bool]] = {
    "conv_general_dilated": _layer,
    "dot_general": _dense,
    "pad": _padded,
    "concatenate": _joined,
    "convert_element_type": _converted,
    **elementwise.RULES,
}
# family -> rule of the kinds that have none of their own
FAMILIES: dict[str, Callable[[Builder, Op], bool]] = {
    **dict.fromkeys((MOVE, ORDER), _moved),
    SUM: _summed,
    ELEMENTWISE: elementwise.function,
}
