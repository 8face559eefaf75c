"""Look-up tables of 256 entries, in place of elementwise ops between two int8 values.

Constant operands of those ops are reduced to size 1 along every axis on which they do not vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.graph.model import Op, Size
from hcjax.graph.ops import fixed_point
from hcjax.quantize import straight_through
from hcjax.quantize.lowering.builder import Builder
from hcjax.quantize.lowering.forms import Int8, Lookup, QParams


def fits_table(b: Builder, number: int, functions: Lookup) -> bool:
    """Returns whether one table, or one per index of an axis, can hold a function."""
    floating, shared = jnp.issubdtype(b.dtype[number], jnp.floating), _constant_inputs(b, functions)
    if not floating or any(value is None for value in shared.values()):
        return False
    return len(_varying_axes(shared)) < 2


def look_up(b: Builder, number: int, functions: Lookup, origin: Int8, qparams: QParams) -> Int8:
    """Looks up a function of an int8 value in a table; requires `fits_table`."""
    shared = _constant_inputs(b, functions)
    varying = _varying_axes(shared)
    ndim, dtype = len(b.shape[number]), b.dtype.get(functions.origin, jnp.float32)
    axis = varying.pop() if varying else None
    numbers = [constant_operand(b, i, f"{b.label_of(number)}/value", v) for i, v in shared.items()]
    widest = max(shared.values(), key=np.size) if shared else None

    def function(batch, x, values):
        env = dict(zip(shared, values, strict=True)) | {functions.origin: x.astype(dtype)}
        for op in functions.ops:
            inputs = [
                straight_through.guard_gradient(
                    jnp.broadcast_to(env[i].astype(b.constants[i].dtype), x.shape)
                )
                if i in shared
                else env[i]
                for i in op.inputs
            ]
            env |= zip(op.outputs, op.run(batch, *inputs), strict=True)
        return env[number].astype(jnp.float32)

    def compute_table(batch, before, after, *values):
        # between optimization barriers: exp must have the same bits in every program
        before, after, values = fixed_point.apart(before, after, values)
        width = 1 if axis is None else widest.shape[axis]
        shape = [256 if a == 0 else width if a == axis else 1 for a in range(ndim)]
        integers = jnp.arange(-128, 128, dtype=jnp.float32).reshape([-1] + [1] * (ndim - 1))
        y = function(256, jnp.broadcast_to(before * (integers - origin.zero), shape), values)
        q = fixed_point.quantize(y, after, qparams.qmin, qparams.qmax, qparams.zero)
        q = q.reshape(256) if axis is None else q.reshape(256, width).T
        return fixed_point.apart(q)

    table = b.emit(
        "table", (origin.scale, qparams.scale, *numbers), jax.jit(compute_table, static_argnums=0)
    )

    def compute(batch, q, table, before, after, *values):
        result = fixed_point.look_up(q.astype(jnp.int32), table, axis)
        real = before * (q - origin.zero if origin.zero else q)
        smooth = function(batch, straight_through.guard_gradient(real), values) / after
        smooth = smooth + qparams.zero if qparams.zero else smooth
        return straight_through.ste(
            result, straight_through.clip(smooth, qparams.qmin, qparams.qmax)
        )

    inputs = (origin.number, table, origin.scale, qparams.scale, *numbers)
    params = {"axis": axis, "label": b.label_of(number)}
    return qparams.of(b.emit("look_up", inputs, compute, of=number, **params))


def _constant_inputs(b: Builder, functions: Lookup) -> dict[int, np.ndarray | None]:
    """Returns the minimal form of each constant operand of a look-up's ops."""
    return {
        i: minimal_constant(b, i, len(op.shape))
        for op in functions.ops
        for i in op.inputs
        if i in b.constants
    }


def _varying_axes(shared: dict[int, np.ndarray]) -> set[int]:
    """Returns the axes along which a function varies."""
    return {a for v in shared.values() for a in range(v.ndim) if v.shape[a] > 1}


# kinds that change only the shape or the type of their operand
_MOVES = ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "squeeze")
_MOVES += ("transpose",)


def minimal_constant(b: Builder, number: int, ndim: int) -> np.ndarray | None:
    """Returns a constant with size 1 along every axis on which it is constant for any parameters.

    None if it varies among the rows of one image, for which no axis is left.
    """
    value = b.constants[number]
    value = collapse(value, ndim, b.randomised[number] if number in b.trained else None)
    producer = b.batch_shaped.get(number)
    sizes = zip(producer.shape[::-1], value.shape[::-1], strict=False) if producer else ()
    return None if any(size.q and n > 1 for size, n in sizes) else value


def constant_operand(b: Builder, number: int, name: str, value: np.ndarray) -> int:
    """Returns the number of a value from `minimal_constant`; name: as in `Builder.operand`."""
    place = (number, value.shape)
    if place not in b.copies:
        source, moves = _source(b, number)
        if source not in b.paths:
            b.copies[place] = b.add_constant(number, name, value)
        else:  # the leaf itself, so that all its consumers share one parameter
            shape = tuple(Size(0, n) for n in value.shape)
            run = partial(_apply_moves, moves, value.shape)
            b.copies[place] = b.emit("operand", (b.operand(source, name),), run, shape=shape)
    return b.copies[place]


def _source(b: Builder, number: int) -> tuple[int, list[Op]]:
    """Returns the number that another is a copy of, and the ops between, in order."""
    producers = {op.output: op for op in b.model.graph.ops if op.kind in _MOVES}
    moves: list[Op] = []
    while number in producers:
        moves.insert(0, producers[number])
        (number,) = producers[number].inputs
    return number, moves


def _apply_moves(moves: Sequence[Op], shape: tuple[int, ...], batch: int, leaf: jax.Array):
    for op in moves:
        (leaf,) = op.run(1, leaf)
    if not shape:
        return leaf.reshape(-1)[0]
    leaf = leaf.reshape((1,) * (len(shape) - leaf.ndim) + leaf.shape)
    return leaf[tuple(slice(0, n) for n in shape)]


def collapse(value, ndim: int, like=None) -> np.ndarray:
    """Returns an array with size 1 along every axis on which `like`, or itself, is constant.

    Example:
      >>> x = np.tile([1.0, 2.0], (1, 3, 1))
      >>> collapse(x, 3).shape, collapse(np.ones((2, 2)), 2).shape
      ((1, 1, 2), (1, 1))
    """
    value = np.asarray(value)
    like = value if like is None else np.asarray(like)
    lead = (1,) * (ndim - value.ndim)
    value, like = value.reshape(lead + value.shape), like.reshape(lead + like.shape)
    for axis in range(value.ndim):
        first = np.take(like, [0], axis)
        if (like == first).all():
            value, like = np.take(value, [0], axis), first
    return value
