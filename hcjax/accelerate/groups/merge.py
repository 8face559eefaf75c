"""Merges kernels that can run at the same moment and read the same arrays.

The moments are indices of steps: a kernel is ready after the last step, or kernel, that makes what
it reads, and due before the first that reads what it makes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hcjax.accelerate.groups.kernels import Kernel, Memory, Target, kernel

_NEXT = 2.0**-20  # between kernels after the same step
_NEAR = 64  # kernels that are looked at as partners


def merged(
    targets: list[Target], memory: Memory, made: dict[Any, int], fits: Callable[[Kernel], bool]
) -> list[Kernel]:
    """Returns kernels that compute the targets, each target by one.

    Args:
      made: variable -> index of the step that makes it in the plain program.
      fits: whether a kernel may be as large as this.
    """
    graph = _Graph([kernel([t], memory) for t in targets], made)
    open_kernels: list[int] = []
    for b in sorted(range(len(targets)), key=lambda i: (graph.ready[i], made[targets[i].variable])):
        best, most = None, 0.0
        for a in open_kernels[-_NEAR:]:
            gain = _gain(graph, a, b)
            if gain > most and (joint := graph.joined(a, b, memory, fits)):
                best, most = (a, joint), gain
        if best is None:
            open_kernels.append(b)
        else:
            graph.join(best[0], b, *best[1])
    return [graph.kernels[i] for i in open_kernels]


def _gain(graph: _Graph, a: int, b: int) -> float:
    """Returns how many full arrays are not read, or 0 if two kernels cannot be one."""
    one, other = graph.kernels[a], graph.kernels[b]
    if one.shape != other.shape:
        return 0
    if max(graph.ready[a], graph.ready[b]) >= min(graph.due[a], graph.due[b]):
        return 0
    shared = len(set(one.full) & set(other.full))
    return shared + len({t.variable for t in one.targets} & set(other.full))


class _Graph:
    """Kernels, which reads what of which, and when each is ready and due."""

    def __init__(self, kernels: list[Kernel], made: dict[Any, int]):
        self.kernels, self.made = dict(enumerate(kernels)), made
        self.owner = {t.variable: i for i, k in self.kernels.items() for t in k.targets}
        self._readers: dict[int, set[int]] = {i: set() for i in self.kernels}
        for i, k in self.kernels.items():
            for source in self.sources(k):
                self._readers[source].add(i)
        self.ready: dict[int, float] = {}
        self.due: dict[int, float] = {}
        waiting = list(self.kernels)
        while waiting:
            i = waiting.pop()
            before = [s for s in self.sources(self.kernels[i]) if s not in self.ready]
            if before:
                waiting += [i, *before]
            else:
                self.ready[i] = self._ready(self.kernels[i], self.ready, ())
        for i in sorted(self.kernels, key=self.ready.__getitem__, reverse=True):
            own = {t.reader for t in self.kernels[i].targets}
            self.due[i] = min(own | {self.due[r] for r in self.readers(i)})

    def sources(self, k: Kernel) -> set[int]:
        """Returns the kernels that make what one reads."""
        return {self.owner[v] for v in k.reads if v in self.owner}

    def readers(self, i: int) -> list[int]:
        """Returns the kernels that read what one makes."""
        return sorted(self._readers[i])

    def _ready(self, k: Kernel, ready: dict[int, float], own: tuple[int, ...]) -> float:
        steps = [self.made.get(v, -1) for v in k.reads if v not in self.owner]
        return max([-1.0, *steps, *(ready[s] + _NEXT for s in self.sources(k) if s not in own)])

    def joined(self, a: int, b: int, memory: Memory, fits: Callable) -> tuple | None:
        """Returns (kernel, times ready, time due) of two as one; None if that cannot be."""
        both = kernel((*self.kernels[a].targets, *self.kernels[b].targets), memory)
        if not fits(both) or self._depends(both, (a, b)):
            return None
        ready = dict(self.ready)
        ready[a] = self._ready(both, ready, (a, b))
        due = min(self.due[a], self.due[b])
        due = min([due, *(self.due[r] for i in (a, b) for r in self.readers(i) if r not in (a, b))])
        if ready[a] >= due:
            return None
        later = [a]
        while later:
            i = later.pop()
            for r in {*self.readers(i), *(self.readers(b) if i == a else ())} - {a, b}:
                if ready[r] < ready[i] + _NEXT:
                    ready[r] = ready[i] + _NEXT
                    if ready[r] >= self.due[r]:
                        return None
                    later.append(r)
        return both, ready, due

    def _depends(self, both: Kernel, own: tuple[int, ...]) -> bool:
        """Tells whether what a joint kernel reads is made of what it makes."""
        earliest = min(self.ready[i] for i in own)
        stack, seen = [*(self.sources(both) - set(own))], set()
        while stack:
            i = stack.pop()
            if i in own:
                return True
            if i not in seen and self.ready[i] >= earliest:
                seen.add(i)
                stack.extend(self.sources(self.kernels[i]))
        return False

    def join(self, a: int, b: int, both: Kernel, ready: dict[int, float], due: float) -> None:
        """Puts kernel b into a."""
        after = (self._readers[a] | self._readers[b]) - {a, b}
        for i in (a, b):
            for source in self.sources(self.kernels[i]):
                self._readers[source].discard(i)
        del self.kernels[b], self._readers[b], ready[b]
        self.kernels[a], self.ready, self._readers[a] = both, ready, after
        self.owner.update((t.variable, a) for t in both.targets)
        for source in self.sources(both) - {a}:
            self._readers[source].add(a)
        self.due.pop(b)
        self.due[a] = due
        earlier = [a]
        while earlier:
            i = earlier.pop()
            for source in self.sources(self.kernels[i]) - {i}:
                if self.due[source] > self.due[i]:
                    self.due[source] = self.due[i]
                    earlier.append(source)
