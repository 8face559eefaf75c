"""Rules for elementwise ops: sums with other scales and offsets, clips, and tables for the rest."""

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


def affine(b: Builder, op: Op) -> bool:
    """Adds to, or multiplies, one value by a constant or two by one another."""
    inside = b.read(op)
    if len(inside) == 2:
        return function(b, op) if _one_origin(b, op) else _both(b, op)
    (number,) = inside
    if op.kind == "neg":
        constant = first = None
    else:
        constant = next(i for i in op.inputs if i != number)
        first = op.inputs[0] == constant
        if op.kind == "div" and first:
            return function(b, op)
        value = lookup.small(b, constant, len(op.shape))
        if value is None:
            return False
        value = value.reshape(()) if value.size == 1 else value
        c = lookup.operand(b, constant, f"{b.label_of(number)}/{op.kind}", value)
    if b.shape[number] == op.shape and not _is_sum(b, number):
        _deeper(b, op)
    wide = _wide(b, op, number)
    if op.kind in ("add", "sub"):
        sign = -1.0 if op.kind == "sub" and first else 1.0
        if sign < 0:
            wide = _scaled(b, wide, lambda s: -s)
        sign = -1.0 if op.kind == "sub" and not first else 1.0
        if wide.offset is None:
            offset = b.emit("offset", (c,), lambda batch, t: sign * t.astype(jnp.float32))
        else:
            offset = b.emit(
                "offset", (wide.offset, c), lambda batch, o, t: o + sign * t.astype(jnp.float32)
            )
        b.forms[op.output].accumulator = wide._replace(offset=offset)
    elif op.kind == "neg":
        b.forms[op.output].accumulator = _scaled(b, wide, lambda s: -s)
    else:
        by = {"mul": jnp.multiply, "div": fixed_point.over}[op.kind]
        shape = tuple(Size(0, n) for n in value.shape)
        b.forms[op.output].accumulator = _scaled(b, wide, by, c, shape)._replace(
            empty=not value.all()
        )
    return True


def _wide(b: Builder, op: Op, number: int) -> Accumulator:
    """Returns a value as terms of the shape of an op that reads it, and may repeat it."""
    wide = conversion.accumulator_of(b, number)
    if b.shape[number] == op.shape:
        return wide
    new = {i: conversion.repeated(b, op, i) for t in wide.terms for i in (t.number, t.smooth)}
    terms = (t._replace(number=new[t.number], smooth=new[t.smooth]) for t in wide.terms)
    return wide._replace(terms=tuple(terms))


def _scaled(b: Builder, wide: Accumulator, by: Callable, *more) -> Accumulator:
    """Returns a sum with its scales and its offset changed by a function."""
    constants, shape = more[:1], more[1] if more else ()

    def changed(kind, number):
        was = b.shape_of(number)
        both = tuple(Size(0, max(x.r, y.r)) for x, y in zip(was, shape, strict=False))

        def run(batch, s, *t):
            return by(s, *(v.astype(jnp.float32) for v in t))

        return b.emit(kind, (number, *constants), run, shape=both or was or shape)

    terms = tuple(t._replace(scale=changed("scale", t.scale)) for t in wide.terms)
    offset = None if wide.offset is None else changed("offset", wide.offset)
    return wide._replace(terms=terms, offset=offset)


def _both(b: Builder, op: Op) -> bool:
    """Adds, subtracts or multiplies two values."""
    if op.kind not in ("add", "sub", "mul"):
        return False
    if op.kind == "mul":
        left, right = (conversion.int8_of(b, i) for i in op.inputs)
        new = b.emit("mul", (left.number, right.number), lambda batch, x, y: x * y, of=op.output)
        scale = b.emit("scale", (left.scale, right.scale), lambda batch, s, t: s * t)
        bound = left.bound * right.bound
        b.forms[op.output].accumulator = Accumulator((Term(new, new, scale, bound),))
        return True
    left, right = (_wide(b, op, i) for i in op.inputs)
    if op.kind == "sub":
        right = _scaled(b, right, lambda s: -s)
    offsets = tuple(w.offset for w in (left, right) if w.offset is not None)
    if len(offsets) == 2:
        offsets = (b.emit("offset", offsets, lambda batch, s, t: s + t),)
    b.forms[op.output].accumulator = Accumulator((*left.terms, *right.terms), *offsets)
    return True


def clip(b: Builder, op: Op) -> bool:
    """Clips a value between constants."""
    (number,), low, high = b.read(op), -np.inf, np.inf
    if b.shape[number] != op.shape:
        return False
    limits = [i for i in op.inputs if i in b.known]
    constants = [lookup.small(b, i, 0) for i in limits]
    if any(c is None or c.size != 1 for c in constants) or b.trained.intersection(limits):
        return function(b, op)
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
    if not _is_sum(b, number):
        _deeper(b, op)
    found = b.forms[number].accumulator
    if found is None or b.forms[number].int8 or len(b.readers[number]) > 1:
        q = conversion.int8_of(b, number)
        if low == 0 and high == np.inf:
            b.forms[op.output].int8 = _positive(b, op, q)
            return True
        found = conversion.accumulator_of(b, number)
    # in this order: where both clips exclude one another, the last one decides
    ends = (min(max(end, low), high) for end in (found.low, found.high))
    b.forms[op.output].accumulator = Accumulator(found.terms, found.offset, *ends)
    return True


def _positive(b: Builder, op: Op, q: Int8) -> Int8:
    """Returns relu of an int8 value, on the same qparams."""
    if q.qmin >= 0:
        return q
    new = b.emit("relu", (q.number,), lambda batch, x: jax.nn.relu(x), of=op.output)
    return Int8(new, q.scale, 0, q.qmax)


def extremum(b: Builder, op: Op) -> bool:
    """Clips one value, or takes the greater or less of two functions of one."""
    return clip(b, op) if len(b.read(op)) == 1 else function(b, op)


def function(b: Builder, op: Op) -> bool:
    """Writes an elementwise op down as part of a table."""
    if not _one_origin(b, op):
        return False
    _deeper(b, op)
    return True


def _one_origin(b: Builder, op: Op) -> bool:
    inside = b.read(op)
    same = len({conversion.lookup_of(b, i).origin for i in inside}) == 1
    return same and all(b.shape[i] == op.shape for i in inside) and len(op.outputs) == 1


def _deeper(b: Builder, op: Op) -> None:
    """Adds an elementwise op to the functions of what it reads."""
    lookups = [conversion.lookup_of(b, i) for i in b.read(op)]
    ops = tuple({o.output: o for c in lookups for o in c.ops}.values())
    b.forms[op.output].lookup = Lookup(lookups[0].origin, (*ops, op))


def _is_sum(b: Builder, number: int) -> bool:
    """Returns whether a value is a sum whose only consumer does not need it as int8."""
    alone = len(b.readers.get(number, ())) == 1
    form = b.forms[number]
    return bool(alone and form.accumulator and not form.lookup and not form.int8)


# kinds of a rule of their own; every other function becomes a table
RULES: dict[str, Callable[[Builder, Op], bool]] = {
    **dict.fromkeys(("add", "sub", "mul", "div", "neg"), affine),
    **dict.fromkeys(("relu", "relu6", "clamp"), clip),
    **dict.fromkeys(("max", "min"), extremum),
}
