"""Finds the full arrays of a program that a loop can compute, as expressions of other arrays.

In: a flat program. Out: for each full array (float32 or bool, of at least two axes) a `Value`: an
operation of other values, or an array to read. An operation's operands are full arrays of the same
shape, vectors along the last axis, scalars and numbers; what repeats a vector or a scalar along the
other axes is the vector or scalar itself. Calls of functions of such operations are opened.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hcjax.accelerate.groups.flat import Flat, Step
from hcjax.core import walker
from hcjax.core.walker import is_literal

# operations of which gcc makes vector code, with XLA's results
OPERATIONS = {
    "add": 2, "add_any": 2, "sub": 2, "mul": 2, "div": 2, "max": 2, "min": 2, "neg": 1, "square": 1,
    "integer_pow": 1, "select_n": 3, "gt": 2, "lt": 2, "ge": 2, "le": 2, "eq": 2, "ne": 2, "and": 2,
    "or": 2, "xor": 2, "not": 1, "sqrt": 1, "abs": 1, "sign": 1, "convert_element_type": 1,
    "copy": 1, "copy_p": 1, "stop_gradient": 1,
}  # fmt: skip
_SAME = ("copy", "copy_p", "stop_gradient")
_NUMBERS = ("add", "add_any", "sub", "mul", "neg", "abs", "sign")  # whose bool kinds are others
_CALLS = ("jit", "pjit", "closed_call", "custom_jvp_call", "core_call")
_TYPES = ("float32", "bool")
_MOST_CHANNELS = 2048  # of which a thread keeps sums on its stack
MOST_INSIDE = 30  # operations of an opened call


@dataclass(eq=False)
class Value:
    """A number per element. op: an operation, or "read" (a full array), "vector", "scalar",
    "number".

    args: values. data: the variable that is read, a number, or the power of an integer_pow. kind:
    "float32" or "bool". variable: of the program, that has this value; None inside of a call.
    """

    op: str
    args: tuple[Value, ...]
    data: Any
    kind: str
    variable: Any = None


def expressions(program: Flat, least: int) -> tuple[dict, set]:
    """Returns variable -> Value of all full arrays, and the indices of the steps in expressions.

    Args:
      least: elements of an array that is worth a loop.
    """
    values: dict[Any, Value] = {}
    inside = set()
    small: dict[Any, Value] = {}

    def operand(v, shape):
        if not is_literal(v) and v in values and v.aval.shape == shape:
            return values[v]
        return _small(v, shape, small)

    for index, step in enumerate(program.steps):
        for v in step.reads:
            if not is_literal(v) and v not in values and is_full(v.aval, least):
                values[v] = Value("read", (), v, v.aval.dtype.name)
        if len(step.writes) != 1 or not is_full(step.writes[0].aval, least):
            continue
        (v,) = step.writes
        found = _value(step.eqn, step.reads, v.aval, operand)
        if found is not None:
            if found.op in OPERATIONS:
                found.variable = v
            values[v] = found
            inside.add(index)
    return values, inside


def is_full(aval: Any, least: int) -> bool:
    """Tells whether a type is that of a full array, which has more than one row."""
    shape = getattr(aval, "shape", ())
    return (
        len(shape) >= 2
        and all(isinstance(n, int) for n in shape)
        and math.prod(shape) >= max(least, 2 * shape[-1])
        and shape[-1] <= _MOST_CHANNELS
        and aval.dtype.name in _TYPES
        and not _is_split(aval)
    )


def _is_split(aval: Any) -> bool:
    """Tells whether a type says that an array is sharded over a mesh, which a call is not."""
    return any(aval.sharding.spec)


def is_column_sum(step: Step) -> bool:
    """Tells whether a step sums an array over all axes but the last."""
    if step.name != "reduce_sum" or is_literal(step.reads[0]):
        return False
    aval = step.reads[0].aval
    return tuple(step.eqn.params["axes"]) == tuple(range(len(aval.shape) - 1))


def _value(eqn: walker.Eqn, reads: Sequence, aval: Any, operand: Any) -> Value | None:
    """Returns an equation's result as a value; None if it is none of these operations."""
    name, shape, kind = eqn.primitive.name, aval.shape, aval.dtype.name
    if name == "broadcast_in_dim":
        return _broadcast(eqn, reads, shape, operand)
    if name in _CALLS:
        return _call(eqn, reads, shape, operand)
    if len(reads) != OPERATIONS.get(name):
        return None
    args = [operand(v, shape) for v in reads]
    if kind not in _TYPES or any(a is None or a.kind not in _TYPES for a in args):
        return None
    data = eqn.params["y"] if name == "integer_pow" else None
    if data not in (None, 2, 3):
        return None
    if (name == "select_n" and args[0].kind != "bool") or (kind == "bool" and name in _NUMBERS):
        return None
    if name in _SAME or (name == "convert_element_type" and args[0].kind == kind):
        name = "copy"
    return Value(name, tuple(args), data, kind)


def _broadcast(eqn: walker.Eqn, reads: Sequence, shape: tuple, operand: Any) -> Value | None:
    """Returns the small array that a step repeats along all axes but the last."""
    if len(reads) != 1:
        return None
    (v,) = reads
    places = [int(i) for i in eqn.params["broadcast_dimensions"]]
    sizes = {i: n for i, n in zip(places, v.aval.shape, strict=True) if n > 1}
    if sizes and sizes != {len(shape) - 1: shape[-1]}:
        return None
    return operand(v, shape)


def _small(v: Any, shape: tuple, known: dict) -> Value | None:
    """Returns a number, scalar or vector along the last axis of a shape as a value."""
    if isinstance(v, Value):
        return v
    aval = v.aval
    kind = getattr(getattr(aval, "dtype", None), "name", "")
    if kind not in _TYPES or _is_split(aval):
        return None
    if is_literal(v):
        return Value("number", (), np.asarray(v.val)[()], kind) if np.ndim(v.val) == 0 else None
    key = v, len(shape) and shape[-1]
    if key not in known:
        size = math.prod(aval.shape)
        along = aval.shape[-1:] == shape[-1:] and size == shape[-1]
        if size != 1 and not along:
            return None
        known[key] = Value("scalar" if size == 1 else "vector", (), v, kind)
    return known[key]


def _call(eqn: walker.Eqn, reads: Sequence, shape: tuple, operand: Any) -> Value | None:
    """Returns the result of a call whose body is made of operations."""
    bodies = [body for bodies in walker.nested_jaxprs(eqn).values() for body in bodies]
    if len(bodies) != 1 or eqn.effects:
        return None
    body = walker.as_closed(bodies[0])
    jaxpr = body.jaxpr
    if body.consts or len(jaxpr.outvars) != 1 or len(jaxpr.eqns) > MOST_INSIDE:
        return None
    inner: dict[Any, Any] = {}
    for v, outer in zip(jaxpr.invars, reads, strict=True):
        inner[v] = operand(outer, shape)
        if inner[v] is None and is_literal(outer) and np.ndim(outer.val) == 0:
            inner[v] = Value("number", (), np.asarray(outer.val)[()], str(outer.aval.dtype))

    def inside(v, shape):
        return inner.get(v) if not is_literal(v) else _small(v, shape, {})

    for step in jaxpr.eqns:
        if len(step.outvars) != 1:
            return None
        (v,) = step.outvars
        if v.aval.shape == shape:
            inner[v] = _value(step, step.invars, v.aval, inside)
        elif v.aval.shape == ():
            inner[v] = _number(step, inside)
    result = jaxpr.outvars[0]
    found = None if is_literal(result) or result in jaxpr.invars else inner.get(result)
    return found if found is not None and found.op in OPERATIONS else None


def _number(eqn: walker.Eqn, inside: Any) -> Value | None:
    """Returns the value of a number that is only brought to another dtype."""
    if eqn.primitive.name != "convert_element_type":
        return None
    (v,) = eqn.invars
    dtype = eqn.params["new_dtype"]
    if dtype.name not in _TYPES:
        return None
    if is_literal(v) and np.ndim(v.val) == 0:
        return Value("number", (), np.asarray(v.val).astype(dtype)[()], dtype.name)
    found = None if is_literal(v) else inside(v, ())
    if found is None or found.op != "number":
        return None
    return Value("number", (), np.asarray(found.data).astype(dtype)[()], dtype.name)
