"""Union-find over nodes: which indices of a graph's values must be cut together.

Each axis of each value is an array of nodes, one for each index. Nodes that must be cut together
are one class, a channel; a class that nothing may be cut from has a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from hcjax.graph.model import Op

Axes = tuple[np.ndarray, ...]


class Read(NamedTuple):
    """A sum over channels: a layer, and the axis of each of its two operands that it sums over."""

    op: Op
    axes: tuple[int, int]


class Classes:
    """The nodes of a graph's values, and their classes; node 0 is kept always.

    leaves: number -> shape, of parameters and constants. named: those of them that have a path, so
    that what is cut from them is known.
    """

    def __init__(self, leaves: Mapping[int, tuple[int, ...]], named: Iterable[int]):
        self._why = {0: "it holds no channels"}  # a node of a kept class -> reason
        self._above = np.zeros(1, np.int64)  # another node of the same class, lower or itself
        self._count = 1
        # number -> nodes of each axis; None: its rank is not known
        self.axes: dict[int, Axes | None] = {
            number: tuple(self.fresh(n) for n in shape) for number, shape in leaves.items()
        }
        self._leaves = self._count  # nodes below are indices of parameters and constants
        self.carried = set(named)  # numbers that are zero where a parameter's slice is
        self.reads: list[Read] = []
        self.made: set[int] = set()  # first nodes of the axes along which kernels make channels

    def fresh(self, count: int) -> np.ndarray:
        """Returns new nodes, each a class of its own."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._above):
            more = np.arange(len(self._above), 2 * self._count)
            self._above = np.concatenate([self._above, more])
        return np.arange(first, self._count)

    def roots(self, nodes: np.ndarray) -> np.ndarray:
        """Returns the first node of each node's class."""
        found = self._above[nodes]
        while (self._above[found] != found).any():
            found = self._above[found]
        self._above[nodes] = found
        return found

    def same(self, left: np.ndarray, right: np.ndarray) -> None:
        """Makes one class of each pair of nodes, of arrays that broadcast."""
        while True:
            a, b = np.broadcast_arrays(self.roots(left), self.roots(right))
            if (differ := a != b).any():  # a root with two lower ones takes one now, one next time
                a, b = a[differ], b[differ]
                self._above[np.maximum(a, b)] = np.minimum(a, b)
            else:
                return

    def keep(self, nodes: np.ndarray, why: str) -> np.ndarray:
        """Keeps nodes for a reason, unless they have one, and returns them."""
        for root in np.unique(self.roots(nodes)).tolist():
            self._why.setdefault(root, why)
        return nodes

    def free(self, nodes: np.ndarray) -> np.ndarray:
        """Returns of each node whether it may be cut."""
        return ~np.isin(self.roots(nodes), self.roots(np.array(list(self._why))))

    def why(self) -> dict[int, str]:
        """Returns the reason of each class that is kept, by its first node."""
        found: dict[int, str] = {}
        for root, why in zip(
            self.roots(np.array(list(self._why))), self._why.values(), strict=True
        ):
            found.setdefault(int(root), why)
        return found

    def summed(self, op: Op, axes: tuple[int, int], left: np.ndarray, right: np.ndarray) -> None:
        """Couples the nodes that a layer sums over, of axes `axes` of its operands.

        What is cut must have added zero when its slices were zero: one operand is a parameter.
        """
        self.same(left, right)
        sides = zip(op.inputs[:2], (left, right), strict=True)
        if any(number in self.carried and (nodes < self._leaves).all() for number, nodes in sides):
            self.reads.append(Read(op, axes))
        else:
            self.keep(left, f"{where(op)} sums over it, by no parameter of its own")

    def making(self, nodes: np.ndarray) -> np.ndarray:
        """Notes and returns the nodes of an axis along which a kernel makes channels."""
        if len(nodes) and nodes[0] < self._leaves:
            self.made.add(int(nodes[0]))
        return nodes


def where(op: Op) -> str:
    """Returns an op as text: its line and kind."""
    return f"{op.source or 'an unknown line'} ({op.kind})"
