"""The forms that a value of a quantized graph can take, by the number of the value in float.

- `Int8`: an array of int8 and its QParams;
- `Accumulator`: a sum of int32 accumulators before requantization;
- `Lookup`: elementwise ops behind one `Int8`, for a look-up table of 256 entries;
- floating: an array of float32.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np

from hcjax.graph.model import Op


class QParams(NamedTuple):
    """The meaning of integers: real = scale · (q - zero) with qmin <= q <= qmax.

    scale: number of the scale in the new graph. zero: the zero point; 0 for none.
    """

    scale: int
    qmin: int
    qmax: int
    zero: int = 0

    def of(self, number: int) -> Int8:
        """Returns the Int8 form of an array with these QParams, by its number."""
        return Int8(number, *self)

    @property
    def bound(self) -> int:
        """The greatest magnitude of an integer."""
        return max(-self.qmin, self.qmax)


class Int8(NamedTuple):
    """An array of int8: its number in the new graph, and its `QParams`."""

    number: int
    scale: int
    qmin: int
    qmax: int
    zero: int = 0

    @property
    def bound(self) -> int:
        """The greatest magnitude of an integer."""
        return max(-self.qmin, self.qmax)


class Term(NamedTuple):
    """One accumulator: real = scale · number, |number| <= bound.

    number, scale: of the arrays in the new graph. smooth: of the array that carries the gradient.
    """

    number: int
    smooth: int
    scale: int
    bound: int


class Accumulator(NamedTuple):
    """clip(sum of scale · term + offset, low, high), in real numbers.

    offset: its number, or None. empty: whether a scale is 0, so that offset / scale is undefined.
    """

    terms: tuple[Term, ...]
    offset: int | None = None
    low: float = -np.inf
    high: float = np.inf
    empty: bool = False

    @property
    def clipped(self) -> bool:
        """Whether either limit is finite."""
        return self.low > -np.inf or self.high < np.inf


class Lookup(NamedTuple):
    """Elementwise ops of the original graph behind one of its values, `origin`."""

    origin: int
    ops: tuple[Op, ...] = ()


@dataclasses.dataclass
class Forms:
    """The forms that one value has so far; floating is the number of its float array.

    symmetric: a second int8 form, if the first has a zero point.
    """

    int8: Int8 | None = None
    symmetric: Int8 | None = None
    accumulator: Accumulator | None = None
    lookup: Lookup | None = None
    floating: int | None = None
