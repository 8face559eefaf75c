"""Tables of 256 entries: what elementwise ops between two int8 values become.

What those ops read besides images is made as small as it can be, and is one leaf for all of them.
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


def holds(b: Builder, number: int, functions: Lookup) -> bool:
    """Returns whether one table, or one per index of one axis, can hold a function."""
    floating, shared = jnp.issubdtype(b.dtype[number], jnp.floating), _shared(b, functions)
    if not floating or any(value is None for value in shared.values()):
        return False
    return len(_varying(shared)) < 2


def looked_up(b: Builder, number: int, functions: Lookup, origin: Int8, qparams: QParams) -> Int8:
    """Returns a function of an int8 value, from a table: `holds` says whether there is one."""
    shared = _shared(b, functions)
    varying = _varying(shared)
    ndim, dtype = len(b.shape[number]), b.dtype.get(functions.origin, jnp.float32)
    axis = varying.pop() if varying else None
    numbers = [operand(b, i, f"{b.label_of(number)}/value", v) for i, v in shared.items()]
    widest = max(shared.values(), key=np.size) if shared else None

    def function(batch, x, values):
        env = dict(zip(shared, values, strict=True)) | {functions.origin: x.astype(dtype)}
        for op in functions.ops:
            inputs = [
                straight_through.finite(jnp.broadcast_to(env[i].astype(b.known[i].dtype), x.shape))
                if i in shared
                else env[i]
                for i in op.inputs
            ]
            env |= zip(op.outputs, op.run(batch, *inputs), strict=True)
        return env[number].astype(jnp.float32)

    def tabled(batch, before, after, *values):
        # apart from what surrounds it: exp must not round differently from one program to another
        before, after, values = fixed_point.apart(before, after, values)
        width = 1 if axis is None else widest.shape[axis]
        shape = [256 if a == 0 else width if a == axis else 1 for a in range(ndim)]
        steps = jnp.arange(-128, 128, dtype=jnp.float32).reshape([-1] + [1] * (ndim - 1))
        y = function(256, jnp.broadcast_to(before * steps, shape), values)
        q = fixed_point.quantize(y, after, qparams.qmin, qparams.qmax)
        q = q.reshape(256) if axis is None else q.reshape(256, width).T
        return fixed_point.apart(q)

    table = b.emit(
        "table", (origin.scale, qparams.scale, *numbers), jax.jit(tabled, static_argnums=0)
    )

    def compute(batch, q, table, before, after, *values):
        found = fixed_point.look_up(q.astype(jnp.int32), table, axis)
        smooth = function(batch, straight_through.finite(before * q), values) / after
        return straight_through.ste(
            found, straight_through.clipped(smooth, qparams.qmin, qparams.qmax)
        )

    inputs = (origin.number, table, origin.scale, qparams.scale, *numbers)
    about = {"axis": axis, "label": b.label_of(number)}
    return qparams.of(b.emit("look_up", inputs, compute, of=number, **about))


def _shared(b: Builder, functions: Lookup) -> dict[int, np.ndarray | None]:
    """Returns what the ops of a functions read besides images, as small as it gets; see `small`."""
    return {
        i: small(b, i, len(op.shape)) for op in functions.ops for i in op.inputs if i in b.known
    }


def _varying(shared: dict[int, np.ndarray]) -> set[int]:
    """Returns the axes along which a function differs."""
    return {a for v in shared.values() for a in range(v.ndim) if v.shape[a] > 1}


# ops whose result is what they read, in another shape or type
_MOVES = ("broadcast_in_dim", "convert_element_type", "copy", "expand_dims", "reshape", "squeeze")
_MOVES += ("transpose",)


def small(b: Builder, number: int, ndim: int) -> np.ndarray | None:
    """Returns a value with size 1 along every axis along which it can only be the same.

    Parameters that happen to be equal stay several. None: it differs among the rows of one image,
    for which no axis is left.
    """
    value = b.known[number]
    value = _collapsed(value, b.drawn[number] if number in b.trained else value, ndim)
    made = b.stretched.get(number)
    sizes = zip(made.shape[::-1], value.shape[::-1], strict=False) if made else ()
    return None if any(size.q and n > 1 for size, n in sizes) else value


def operand(b: Builder, number: int, name: str, value: np.ndarray) -> int:
    """Returns the number of a value from `small`, maybe reshaped; name: as of `b.operand`."""
    place = (number, value.shape)
    if place not in b.copies:
        source, moves = _source(b, number)
        if source not in b.paths:
            b.copies[place] = b.given(number, name, value)
        else:  # the leaf itself, so that it is one wherever it is read
            shape = tuple(Size(0, n) for n in value.shape)
            run = partial(_laid_out, moves, value.shape)
            b.copies[place] = b.emit("operand", (b.operand(source, name),), run, shape=shape)
    return b.copies[place]


def _source(b: Builder, number: int) -> tuple[int, list[Op]]:
    """Returns what a number is a copy of, and the ops that made it so, the first of them first."""
    made = {op.output: op for op in b.model.graph.ops if op.kind in _MOVES}
    moves: list[Op] = []
    while number in made:
        moves.insert(0, made[number])
        (number,) = made[number].inputs
    return number, moves


def _laid_out(moves: Sequence[Op], shape: tuple[int, ...], batch: int, leaf: jax.Array):
    for op in moves:
        (leaf,) = op.run(1, leaf)
    if not shape:
        return leaf.reshape(-1)[0]
    leaf = leaf.reshape((1,) * (len(shape) - leaf.ndim) + leaf.shape)
    return leaf[tuple(slice(0, n) for n in shape)]


def _collapsed(value, like, ndim: int) -> np.ndarray:
    """Returns an array with size 1 along every axis along which another, `like` it, is the same.

    Example:
      >>> x = np.tile([1.0, 2.0], (1, 3, 1))
      >>> _collapsed(x, x, 3).shape, _collapsed(np.ones((2, 2)), np.ones((2, 2)), 2).shape
      ((1, 1, 2), (1, 1))
    """
    value, like = np.asarray(value), np.asarray(like)
    lead = (1,) * (ndim - value.ndim)
    value, like = value.reshape(lead + value.shape), like.reshape(lead + like.shape)
    for axis in range(value.ndim):
        first = np.take(like, [0], axis)
        if (like == first).all():
            value, like = np.take(value, [0], axis), first
    return value
