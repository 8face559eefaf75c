"""Rules for elementwise ops: affine ops change scales and offsets, others become look-up tables."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.model import Op, Size
from hcjax.graph.ops import fixed_point
from hcjax.quantize.lowering import conversion, lookup
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.lowering.forms import Accumulator, Int8, Lookup, Term


def lower_affine(b: Builder, op: Op) -> bool:
    """Lowers an affine op of one value and a constant, or a sum or product of two values."""
    activations = b.activations(op)
    if len(activations) == 2:
        return lower_function(b, op) if _one_origin(b, op) else _binary(b, op)
    (number,) = activations
    if op.kind == "neg":
        constant = first = None
    else:
        constant = next(i for i in op.inputs if i != number)
        first = op.inputs[0] == constant
        if op.kind == "div" and first:
            return lower_function(b, op)
        value = lookup.minimal_constant(b, constant, len(op.shape))
        if value is None:
            return False
        value = value.reshape(()) if value.size == 1 else value
        c = lookup.constant_operand(b, constant, f"{b.label_of(number)}/{op.kind}", value)
    if b.shape[number] == op.shape and not _is_open_sum(b, number):
        _extend_lookup(b, op)
    acc = _accumulator(b, op, number)
    if op.kind in ("add", "sub"):
        sign = -1.0 if op.kind == "sub" and first else 1.0
        if sign < 0:
            acc = _scale(b, acc, lambda s: -s)
        sign = -1.0 if op.kind == "sub" and not first else 1.0
        if acc.offset is None:
            offset = b.emit("offset", (c,), lambda batch, t: sign * t.astype(jnp.float32))
        else:
            offset = b.emit(
                "offset", (acc.offset, c), lambda batch, o, t: o + sign * t.astype(jnp.float32)
            )
        b.forms[op.output].accumulator = acc._replace(offset=offset)
    elif op.kind == "neg":
        b.forms[op.output].accumulator = _scale(b, acc, lambda s: -s)
    else:
        by = {"mul": jnp.multiply, "div": fixed_point.over}[op.kind]
        shape = tuple(Size(0, n) for n in value.shape)
        b.forms[op.output].accumulator = _scale(b, acc, by, c, shape)._replace(
            empty=not value.all()
        )
    return True


def _accumulator(b: Builder, op: Op, number: int) -> Accumulator:
    """Returns the accumulator of a value, broadcast to the shape of its consumer."""
    acc = conversion.accumulator_of(b, number)
    if b.shape[number] == op.shape:
        return acc
    new = {i: conversion.broadcast(b, op, i) for t in acc.terms for i in (t.number, t.smooth)}
    terms = (t._replace(number=new[t.number], smooth=new[t.smooth]) for t in acc.terms)
    return acc._replace(terms=tuple(terms))


def _scale(b: Builder, acc: Accumulator, by: Callable, *more) -> Accumulator:
    """Returns an accumulator with a function applied to its scales and its offset."""
    constants, shape = more[:1], more[1] if more else ()

    def scaled(kind, number):
        old = b.shape_of(number)
        both = tuple(Size(0, max(x.r, y.r)) for x, y in zip(old, shape, strict=False))

        def run(batch, s, *t):
            return by(s, *(v.astype(jnp.float32) for v in t))

        return b.emit(kind, (number, *constants), run, shape=both or old or shape)

    terms = tuple(t._replace(scale=scaled("scale", t.scale)) for t in acc.terms)
    offset = None if acc.offset is None else scaled("offset", acc.offset)
    return acc._replace(terms=terms, offset=offset)


def _binary(b: Builder, op: Op) -> bool:
    """Lowers a sum, a difference or a product of two values."""
    if op.kind not in ("add", "sub", "mul"):
        return False
    if op.kind == "mul":
        left, right = (conversion.symmetric_of(b, i) for i in op.inputs)
        new = b.emit("mul", (left.number, right.number), lambda batch, x, y: x * y, of=op.output)
        scale = b.emit("scale", (left.scale, right.scale), lambda batch, s, t: s * t)
        bound = left.bound * right.bound
        b.forms[op.output].accumulator = Accumulator((Term(new, new, scale, bound),))
        return True
    left, right = (_accumulator(b, op, i) for i in op.inputs)
    if op.kind == "sub":
        right = _scale(b, right, lambda s: -s)
    offsets = tuple(w.offset for w in (left, right) if w.offset is not None)
    if len(offsets) == 2:
        offsets = (b.emit("offset", offsets, lambda batch, s, t: s + t),)
    b.forms[op.output].accumulator = Accumulator((*left.terms, *right.terms), *offsets)
    return True


def lower_clip(b: Builder, op: Op) -> bool:
    """Lowers a clip of one value between constants."""
    (number,), low, high = b.activations(op), -np.inf, np.inf
    if b.shape[number] != op.shape:
        return False
    limits = [i for i in op.inputs if i in b.constants]
    constants = [lookup.minimal_constant(b, i, 0) for i in limits]
    if any(c is None or c.size != 1 for c in constants) or b.trained.intersection(limits):
        return lower_function(b, op)
    constants = [float(c.reshape(())) for c in constants]
    match op.kind:
        case "relu":
            low = 0.0
        case "relu6":
            low, high = 0.0, 6.0
        case "max":
            (low,) = constants
        case "min":
            (high,) = constants
        case "clamp":
            if op.inputs[1] != number:
                return False
            low, high = constants
    if not _is_open_sum(b, number):
        _extend_lookup(b, op)
    acc = b.forms[number].accumulator
    if acc is None or b.forms[number].int8 or len(b.consumers[number]) > 1:
        q = conversion.int8_of(b, number)
        if low == 0 and high == np.inf and q.zero <= q.qmax:
            b.forms[op.output].int8 = _relu(b, op, q)
            return True
        acc = conversion.accumulator_of(b, number)
    # in this order: if low > high, the last clip decides
    ends = (min(max(end, low), high) for end in (acc.low, acc.high))
    b.forms[op.output].accumulator = Accumulator(acc.terms, acc.offset, *ends)
    return True


def _relu(b: Builder, op: Op, q: Int8) -> Int8:
    """Returns relu of an int8 value, with the same QParams."""
    if q.qmin >= q.zero:
        return q
    if q.zero:
        zero = b.add_new_constant(np.float32(q.zero))
        new = b.emit("max", (q.number, zero), lambda batch, x, z: jnp.maximum(x, z), of=op.output)
    else:
        new = b.emit("relu", (q.number,), lambda batch, x: jax.nn.relu(x), of=op.output)
    return q._replace(number=new, qmin=q.zero)


def lower_extremum(b: Builder, op: Op) -> bool:
    """Lowers the minimum or maximum of one value and a constant, or of two functions of a value."""
    return lower_clip(b, op) if len(b.activations(op)) == 1 else lower_function(b, op)


def lower_function(b: Builder, op: Op) -> bool:
    """Records an elementwise op as part of a look-up table."""
    if not _one_origin(b, op):
        return False
    _extend_lookup(b, op)
    return True


def _one_origin(b: Builder, op: Op) -> bool:
    activations = b.activations(op)
    same = len({conversion.lookup_of(b, i).origin for i in activations}) == 1
    return same and all(b.shape[i] == op.shape for i in activations) and len(op.outputs) == 1


def _extend_lookup(b: Builder, op: Op) -> None:
    """Appends an elementwise op to the look-up of its operands."""
    lookups = [conversion.lookup_of(b, i) for i in b.activations(op)]
    ops = tuple({o.output: o for each in lookups for o in each.ops}.values())
    b.forms[op.output].lookup = Lookup(lookups[0].origin, (*ops, op))


def _is_open_sum(b: Builder, number: int) -> bool:
    """Returns whether a value is an accumulator whose only consumer can extend it."""
    alone = len(b.consumers.get(number, ())) == 1
    form = b.forms[number]
    return bool(alone and form.accumulator and not form.lookup and not form.int8)


# kind -> rule; every other elementwise kind becomes a look-up table
RULES: dict[str, Callable[[Builder, Op], bool]] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "neg"), lower_affine),
    **dict.fromkeys(("relu", "relu6", "clamp"), lower_clip),
    **dict.fromkeys(("max", "min"), lower_extremum),
}
