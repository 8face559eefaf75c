"""Channels through a reshape: of the axes that it merges, one stays cuttable."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from hcjax.graph.coupling.union_find import Classes


def reshape_nodes(
    c: Classes, axes: Sequence[np.ndarray], sizes: Sequence[int], where: str
) -> tuple[np.ndarray, ...]:
    """Returns the nodes of a reshape's result, with axes of `sizes`.

    Of the axes that are merged, the one with the most free nodes stays free. An axis that is split
    keeps one free axis; a cut of it is the same at every index of the other new axes.
    """
    if 0 in sizes:  # what has no elements has no channels
        for nodes in axes:
            c.keep(nodes, f"{where} takes it away")
        return tuple(np.zeros(n, np.int64) for n in sizes)
    result: list[np.ndarray] = []
    for before, after in _blocks([len(nodes) for nodes in axes], list(sizes)):
        flat = _merge(c, [axes[a] for a in before], where)
        result += _split(c, flat.reshape([sizes[a] for a in after]), where)
    return tuple(result)


def _blocks(before: list[int], after: list[int]) -> Iterator[tuple[range, range]]:
    """Yields the shortest runs of axes before and after a reshape that hold the same elements."""
    i = j = 0
    while i < len(before) or j < len(after):
        starts, m, n = (i, j), 1, 1
        if i < len(before):
            m, i = before[i], i + 1
        if j < len(after):
            n, j = after[j], j + 1
        while m != n:
            if m < n:
                m, i = m * before[i], i + 1
            else:
                n, j = n * after[j], j + 1
        while i < len(before) and before[i] == 1 and after[j : j + 1] != before[i : i + 1]:
            i += 1  # a last axis of one channel is merged with those before it
        yield range(starts[0], i), range(starts[1], j)


def _merge(c: Classes, axes: list[np.ndarray], where: str) -> np.ndarray:
    """Merges axes into one, with the nodes of the axis that has the most free nodes."""
    if len(axes) < 2:
        return axes[0] if axes else np.zeros(1, np.int64)
    counts = [c.free(nodes).sum() for nodes in axes]
    live = max(range(len(axes)), key=lambda a: (counts[a], a))
    for a, nodes in enumerate(axes):
        if a != live:
            c.keep(nodes, f"{where} merges it with another axis")
    shape = [-1 if a == live else 1 for a in range(len(axes))]
    return np.broadcast_to(axes[live].reshape(shape), [len(nodes) for nodes in axes])


def _split(c: Classes, nodes: np.ndarray, where: str) -> list[np.ndarray]:
    """Splits one axis into several: one stays free, coupled over all indices of the others."""
    if nodes.ndim == 0:
        c.keep(nodes.reshape(1), f"{where} takes it away")
        return []
    if nodes.ndim == 1:
        return [nodes]
    roots = c.roots(nodes)
    rows = [np.moveaxis(roots, a, 0).reshape(n, -1) for a, n in enumerate(nodes.shape)]
    even = [bool((r == r[:, :1]).all()) for r in rows]  # already coupled
    live = max(range(nodes.ndim), key=lambda a: (even[a], nodes.shape[a], a))
    c.same(rows[live], rows[live][:, :1])
    first = np.moveaxis(nodes, live, 0).reshape(nodes.shape[live], -1)[:, 0]
    return [first if a == live else np.zeros(n, np.int64) for a, n in enumerate(nodes.shape)]
