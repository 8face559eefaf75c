"""Finds values that had better be in memory, beside those that must be.

A value that n kernels compute, each from arrays that it reads for nothing else, costs n times their
bytes; in memory it costs them once, and n times its own. So the gradient that a residual network
carries from block to block is kept.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from typing import Any, NamedTuple

from hcjax.accelerate.groups.find import Value
from hcjax.accelerate.groups.kernels import SMALL, Memory, Target, positive, size

_NEAR = 64  # values of a target that are looked at


class _Near(NamedTuple):
    """The values that a target is computed from, the nearest first, and the variables read."""

    values: list[Value]
    full: set
    small: set


def shared(
    values: dict[Any, Value], targets: list[Target], memory: Memory, made: dict[Any, int]
) -> list[Target]:
    """Returns the values that had better be in memory too, as targets.

    Args:
      values: variable -> value, in the program's order.
      targets: those that are in memory, and sums.
      memory: of these.
      made: variable -> index of the step that makes it.
    """
    stored, due = dict(memory.stored), {t: t.reader for t in targets}
    near = {t: _near(t, stored, memory.clips) for t in targets}
    users: dict[Value, dict[Target, None]] = defaultdict(dict)
    read_by: dict[Value, set] = defaultdict(set)
    for t, found in near.items():
        read_by[t.value].add(t)
        for value in found.values:
            users[value][t] = None
            for a in value.args:
                read_by[a].add(value)
    added = []
    for v, value in values.items():
        mine = [t for t in users.get(value, ()) if t.shape == v.aval.shape]
        if len(mine) < 2 or len(read_by[value]) < 2 or value in stored:
            continue
        spans = [(_ready(near[t], made), due[t]) for t in mine]
        count = _moments(spans)
        new = Target(v, value, False, v.aval.shape, math.inf)  # only kernels read it
        changed = {t: _near(t, stored | {value: v}, memory.clips) for t in (*mine, new)}
        needed = set().union(*(changed[t].full for t in mine))
        extra = sum(map(size, changed[new].full - needed))
        if count < 2 or count * extra <= extra + count * size(v):
            continue
        added.append(new)
        stored[value] = v
        due[new] = min(d for _, d in spans)
        for t, found in changed.items():
            for each in near[t].values if t in near else ():
                users[each].pop(t)
            users.update((each, users[each] | {t: None}) for each in found.values)
        near |= changed
    return added


def _near(target: Target, stored: dict, clips: dict) -> _Near:
    """Follows a target's value to what is in memory, but not far."""
    found = _Near([], set(), set())
    queue, seen = deque([target.value]), set()
    while queue and len(found.values) < _NEAR:
        value = queue.popleft()
        if value in seen or value.op == "number":
            continue
        seen.add(value)
        own = value is target.value and not target.total
        if value.op == "read":
            found.full.add(value.data)
        elif value in stored and not own:
            found.full.add(stored[value])
        elif value.op in SMALL:
            found.small.add(value.data)
        elif (x := positive(value)) in clips:
            found.full.add(clips[x])
        else:
            found.values.append(value)
            queue.extend(value.args)
    return found


def _ready(found: _Near, made: dict[Any, int]) -> float:
    """Returns the index of the last step that makes what is read."""
    return max((made.get(v, -1) for v in found.full | found.small), default=-1)


def _moments(spans: list[tuple[float, float]]) -> int:
    """Returns how many moments are needed so that each span (ready, due) holds one."""
    count, last = 0, -math.inf
    for ready, due in sorted(spans, key=lambda span: span[1]):
        if ready >= last:
            count, last = count + 1, due
    return count
