"""Divides what a program must compute among kernels.

A target can be computed when its leaves are ready, and must be before it is read; those whose spans
overlap and that read the same arrays go into one kernel. A value that several kernels would compute
again from many arrays becomes a target itself.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from hcjax.accelerate.groups.find import expressions, is_column_sum
from hcjax.accelerate.groups.flat import Flat
from hcjax.accelerate.groups.kernels import Kernel, Memory, Target, kernel, moved, size
from hcjax.accelerate.groups.merge import merged
from hcjax.accelerate.groups.share import shared
from hcjax.core.walker import is_literal

_MOST_ARRAYS, _MOST_SMALL, _MOST_OPERATIONS = 16, 64, 200
# what XLA does not fuse with what stands around it
_HARD = ("ffi_call", "conv_general_dilated", "dot_general", "custom_jvp_call", "custom_vjp_call")


class Group(NamedTuple):
    """A kernel that pays, and the bytes that it would move with a loop for each of its targets."""

    kernel: Kernel
    apart: int


def schedule(program: Flat, least: int, least_bytes: int) -> list[Group]:
    """Returns the groups of a program that pay; each target's variable is written by one.

    Args:
      least: elements of an array that is worth a loop.
      least_bytes: that a kernel must read and write; 0 for every kernel, whether it pays or not.
    """
    values, inside = expressions(program, least)
    targets = _targets(program, values, inside)
    made = {v: i for i, step in enumerate(program.steps) for v in step.writes}
    targets += shared(values, targets, _memory(targets), made)
    memory = _memory(targets)
    ends = _ends(program, inside, targets)
    groups = []
    for k in merged(targets, memory, made, _fits):
        if _fits(k) and (not least_bytes or _pays(k, ends, least_bytes)):
            groups.append(Group(k, sum(moved(kernel([t], memory)) for t in k.targets)))
    return groups


def _targets(program: Flat, values: dict, inside: set) -> list[Target]:
    """Returns the sums, and the arrays that something outside of expressions reads."""
    reader = {v: math.inf for v in program.results if not is_literal(v)}
    for index in reversed(range(len(program.steps))):
        step = program.steps[index]
        # a sum of a full array computes the array itself
        if index not in inside and not (is_column_sum(step) and step.reads[0] in values):
            reader.update((v, index) for v in step.reads if not is_literal(v))
    targets = []
    for index, step in enumerate(program.steps):
        v = step.writes[0] if step.writes else None
        if v not in reader:
            continue
        if index in inside and values[v].args:
            targets.append(Target(v, values[v], False, v.aval.shape, reader[v]))
        x = values.get(step.reads[0]) if is_column_sum(step) else None
        if x is not None and x.kind == "float32" and (x.args or x.op == "read"):
            targets.append(Target(v, x, True, step.reads[0].aval.shape, reader[v]))
    return targets


def _memory(targets: list[Target]) -> Memory:
    """Returns what is in memory once the targets are."""
    stored = {t.value: t.variable for t in targets if not t.total}
    clips = {}
    for value, v in stored.items():
        if value.op == "max":
            for x, zero in (value.args, value.args[::-1]):
                if zero.op == "number" and zero.data == 0 and x.args:
                    clips[x] = v
    return Memory(stored, clips)


class _Ends(NamedTuple):
    """Variables by what stands at their ends.

    hard: those that a step reads or writes which XLA does not fuse with its neighbours. hidden:
    those that XLA need not put in memory, as nothing of the kind reads or writes them.
    """

    hard: set
    hidden: set


def _ends(program: Flat, inside: set, targets: list[Target]) -> _Ends:
    """Returns the ends of a program's variables."""
    hard, written = set(), set()
    for index, step in enumerate(program.steps):
        written.update(step.writes)
        if step.name in _HARD and index not in inside:
            hard.update(v for v in (*step.reads, *step.writes) if not is_literal(v))
    stored = {v for v in program.results if not is_literal(v)} | {t.variable for t in targets}
    return _Ends(hard, written - hard - stored)


def _pays(k: Kernel, ends: _Ends, least_bytes: int) -> bool:
    """Tells whether a kernel is worth its call.

    One without sums must stand mostly between what XLA does not fuse with its neighbours; and none
    may read mostly what XLA would not have in memory.
    """
    if moved(k) < least_bytes:
        return False
    if any(t.total for t in k.targets):
        return 2 * sum(size(v) for v in k.full if v in ends.hidden) <= moved(k)
    both = [*k.full, *(t.variable for t in k.targets)]
    return len(k.order) >= 2 and 2 * sum(v in ends.hard for v in both) > len(both)


def _fits(k: Kernel) -> bool:
    """Tells whether a kernel is small enough for a compiler, and for registers."""
    return (
        len(k.full) + len(k.targets) <= _MOST_ARRAYS
        and len(k.small) <= _MOST_SMALL
        and len(k.order) <= _MOST_OPERATIONS
    )
