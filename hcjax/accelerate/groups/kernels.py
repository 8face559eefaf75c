"""Kernels: sets of targets that one loop computes, and the arrays that it reads for them.

A target is a full array that must be in memory, or a sum of one. It is computed from leaves: arrays
that are in memory anyway.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from hcjax.accelerate.groups.find import Value

SMALL = ("vector", "scalar")


@dataclass(eq=False)
class Target:
    """A variable to compute.

    value: what it is, or if `total` is set what is summed over all axes but the last. reader: the
    index of the first step, outside of expressions, that reads it.
    """

    variable: Any
    value: Value
    total: bool
    shape: tuple[int, ...]
    reader: float


class Kernel(NamedTuple):
    """One loop.

    full: variables of the full arrays that it reads. small: the vectors and scalars. places: Value
    -> the variable that it is read from. signs: value x > 0 -> the variable of max(x, 0) that it is
    read off. order: the values that it computes, operands first.
    """

    targets: tuple[Target, ...]
    full: tuple[Any, ...]
    small: tuple[Value, ...]
    places: dict[Value, Any]
    signs: dict[Value, Any]
    order: tuple[Value, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of its full arrays."""
        return self.targets[0].shape

    @property
    def reads(self) -> list:
        """All variables that it reads."""
        return [*self.full, *dict.fromkeys(value.data for value in self.small)]


class Memory(NamedTuple):
    """What is in memory: stored: value -> variable. clips: value x -> variable of max(x, 0)."""

    stored: dict[Value, Any]
    clips: dict[Value, Any]


def kernel(targets: Iterable[Target], memory: Memory) -> Kernel:
    """Returns the kernel that computes some targets, of one shape."""
    targets = tuple(targets)
    own = {t.value for t in targets if not t.total}
    roots = [t.value for t in targets]
    # x > 0 is read off max(x, 0) if that is less than what computing x would read
    order, places, small, possible = _walk(roots, own, memory, {})
    if not possible:
        return Kernel(targets, _unique(places), small, places, {}, order)
    signs = {}
    for value, x in possible.items():
        more = _walk([x], own, memory, {})[1]
        if not set(more.values()) <= set(places.values()):
            signs[value] = memory.clips[x]
    order, places, small, _ = _walk(roots, own, Memory(memory.stored, {}), signs)
    full = dict(enumerate([*places.values(), *(signs[v] for v in order if v in signs)]))
    return Kernel(targets, _unique(full), small, places, signs, order)


def size(variable: Any) -> int:
    """Returns the bytes of a variable."""
    aval = variable.aval
    return math.prod(aval.shape) * aval.dtype.itemsize


def moved(k: Kernel) -> int:
    """Returns the bytes of full arrays that a kernel reads and writes."""
    return sum(map(size, k.full)) + sum(size(t.variable) for t in k.targets if not t.total)


def _unique(places: Mapping[Any, Any]) -> tuple:
    return tuple(dict.fromkeys(places.values()))


def _walk(
    roots: Iterable[Value], own: set[Value], memory: Memory, signs: Mapping[Value, Any]
) -> tuple[tuple[Value, ...], dict[Value, Any], tuple[Value, ...], dict[Value, Value]]:
    """Follows values to what is in memory, other than `own`.

    Returns:
      (values to compute in order, value -> variable of those to read, small operands, comparisons
      x > 0 -> x that can be read off one of `memory.clips`). `signs` are computed from no operand.
    """
    order, places, small, possible = [], {}, [], {}
    seen: set[Value] = set()
    stack = [(root, False) for root in reversed(list(roots))]
    while stack:
        value, done = stack.pop()
        if done:
            order.append(value)
        if done or value in seen:
            continue
        seen.add(value)
        if value.op == "read":
            places[value] = value.data
        elif value in memory.stored and value not in own:
            places[value] = memory.stored[value]
        elif value.op in SMALL:
            small.append(value)
        elif value in signs:
            order.append(value)
        elif (x := positive(value)) in memory.clips:
            possible[value] = x
        elif value.op != "number":
            stack.append((value, True))
            stack.extend((a, False) for a in reversed(value.args))
    return tuple(order), places, tuple(small), possible


def positive(value: Value) -> Value | None:
    """Returns x of a value x > 0, or None."""
    if value.op not in ("gt", "lt") or value.variable is None:
        return None
    x, zero = value.args if value.op == "gt" else value.args[::-1]
    return x if zero.op == "number" and zero.data == 0 and x.kind == "float32" else None
