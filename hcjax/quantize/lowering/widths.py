"""The forms in which a number of a quantized graph is written down.

- Narrow: int8, for itself;
- Wide: a sum of accumulators, not rounded yet, with what is to be added and where to clip;
- Cone: elementwise ops behind one Narrow, to become a table of 256 entries;
- float: what no rule knows, listed in `Model.floats`.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hcjax.graph.model import Op


class Narrow(NamedTuple):
    """int8: number of the array, number of its step, and its limits."""

    number: int
    step: int
    least: int
    most: int


class Term(NamedTuple):
    """An accumulator: number of the array, of the float that gradients pass, of its scale."""

    number: int
    smooth: int
    scale: int
    bound: int


class Wide(NamedTuple):
    """clip(sum of scale · term + offset, low, high), real numbers; offset: a number or None.

    empty: whether a scale is 0, in whose steps no offset can be said.
    """

    terms: tuple[Term, ...]
    offset: int | None = None
    low: float = -np.inf
    high: float = np.inf
    empty: bool = False

    @property
    def clipped(self) -> bool:
        """Whether anything is cut off."""
        return self.low > -np.inf or self.high < np.inf


class Cone(NamedTuple):
    """Elementwise ops of the original graph behind one number of it."""

    origin: int
    ops: tuple[Op, ...] = ()
