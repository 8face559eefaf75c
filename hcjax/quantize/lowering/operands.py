"""What elementwise ops read besides images: as small as it can be, and one leaf for all of them.

In: numbers of the graph. Out: their values without the axes along which they are the same, and the
numbers of the new graph that give these.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import jax
import numpy as np

from hcjax.graph.model import Op, Size
from hcjax.quantize.lowering.builder import Builder

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
