"""Union-find over nodes: which indices of a graph's values must be cut together.

Each axis of each value is an array of nodes, one for each index. Nodes that must be cut together
are one class, a channel; a class that must stay has a reason.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np

from hcjax.core import brief
from hcjax.graph.model import Op

Axes = tuple[np.ndarray, ...]


class Read(NamedTuple):
    """A sum over channels: a layer, and the axis of each of its two operands that it sums over."""

    op: Op
    axes: tuple[int, int]

    __repr__ = brief.record


class Classes:
    """The nodes of a graph's values, and their classes; node 0 always stays.

    leaves: number -> shape, of parameters and constants. named: numbers of the leaves with a path,
    so that a cut can name them.
    """

    def __init__(self, leaves: Mapping[int, tuple[int, ...]], named: Iterable[int]):
        self._reasons = {0: "it holds no channels"}  # a node of a kept class -> reason
        self._parents = np.zeros(1, np.int64)  # a node of the same class, lower or itself
        self._count = 1
        # number -> nodes of each axis; None: of unknown rank
        self.axes: dict[int, Axes | None] = {
            number: tuple(self.fresh(n) for n in shape) for number, shape in leaves.items()
        }
        self._leaves = self._count  # nodes below are indices of parameters and constants
        self.carriers = set(named)  # numbers that are 0 where a parameter's slice is 0
        self.reads: list[Read] = []
        self.kernel_outputs: set[int] = set()  # first nodes of the kernels' output axes

    def fresh(self, count: int) -> np.ndarray:
        """Returns new nodes, each in a class of its own."""
        first, self._count = self._count, self._count + count
        if self._count > len(self._parents):
            more = np.arange(len(self._parents), 2 * self._count)
            self._parents = np.concatenate([self._parents, more])
        return np.arange(first, self._count)

    def roots(self, nodes: np.ndarray) -> np.ndarray:
        """Returns the first node of each node's class."""
        roots = self._parents[nodes]
        while (self._parents[roots] != roots).any():
            roots = self._parents[roots]
        self._parents[nodes] = roots
        return roots

    def same(self, left: np.ndarray, right: np.ndarray) -> None:
        """Merges the classes of each pair of nodes, of arrays that broadcast."""
        while True:
            a, b = np.broadcast_arrays(self.roots(left), self.roots(right))
            if (differs := a != b).any():  # of two lower roots, one waits for the next round
                a, b = a[differs], b[differs]
                self._parents[np.maximum(a, b)] = np.minimum(a, b)
            else:
                return

    def keep(self, nodes: np.ndarray, reason: str) -> np.ndarray:
        """Keeps nodes, with a reason unless they have one, and returns them."""
        for root in np.unique(self.roots(nodes)).tolist():
            self._reasons.setdefault(root, reason)
        return nodes

    def free(self, nodes: np.ndarray) -> np.ndarray:
        """Returns a mask of the nodes that may be cut."""
        return ~np.isin(self.roots(nodes), self.roots(np.array(list(self._reasons))))

    def reasons(self) -> dict[int, str]:
        """Returns first node -> reason, of each class that is kept."""
        by_root: dict[int, str] = {}
        for root, reason in zip(
            self.roots(np.array(list(self._reasons))), self._reasons.values(), strict=True
        ):
            by_root.setdefault(int(root), reason)
        return by_root

    def summed(self, op: Op, axes: tuple[int, int], left: np.ndarray, right: np.ndarray) -> None:
        """Couples the nodes that a layer sums over, of axes `axes` of its operands.

        A channel may be cut only if it adds 0 when its slices are 0: one operand is a parameter.
        """
        self.same(left, right)
        sides = zip(op.inputs[:2], (left, right), strict=True)
        if any(number in self.carriers and (nodes < self._leaves).all() for number, nodes in sides):
            self.reads.append(Read(op, axes))
        else:
            self.keep(left, f"{describe(op)} sums over it, by no parameter of its own")

    def mark_outputs(self, nodes: np.ndarray) -> np.ndarray:
        """Marks the nodes as a kernel's output axis, and returns them."""
        if len(nodes) and nodes[0] < self._leaves:
            self.kernel_outputs.add(int(nodes[0]))
        return nodes


def describe(op: Op) -> str:
    """Returns the line and kind of an op, as text."""
    return f"{op.source or 'an unknown line'} ({op.kind})"
