"""Groups of elementwise operations and of sums over all axes but the last, as generated loops.

In: a jaxpr. Out: a function in which loops, generated as C and built here, stand for such groups.
XLA's CPU compiler makes a loop of one array at a time, and slow ones of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hcjax.accelerate.groups.evaluate import function
from hcjax.accelerate.groups.flat import flat
from hcjax.accelerate.groups.kernels import moved
from hcjax.accelerate.groups.schedule import schedule
from hcjax.native import build

LEAST = 1 << 14  # elements of an array that is worth a loop
LEAST_BYTES = 1 << 18


def grouped(
    jaxpr: Any, *, least: int = LEAST, least_bytes: int = LEAST_BYTES
) -> Callable[..., list] | None:
    """Returns the function of a closed jaxpr with its groups as loops.

    Args:
      jaxpr: closed.
      least: elements of an array that is worth a loop.
      least_bytes: that a loop must read and write; 0 for every group, whether it pays or not.

    Returns:
      A function of the jaxpr's inputs to the list of its outputs; None if there is no group that
      pays, or loops cannot be built here.
    """
    program = flat(jaxpr)
    kernels = [group.kernel for group in schedule(program, least, least_bytes)]
    if not kernels:
        return None
    try:
        return function(program, kernels)
    except build.BuildError:
        return None


def described(
    jaxpr: Any, *, least: int = LEAST, least_bytes: int = LEAST_BYTES
) -> list[tuple[str, str, str]]:
    """Returns (where, group, what its loop does) of each group that `grouped` makes a loop.

    An equation of a rewritten program has lost the line that it came from.

    Args:
      jaxpr, least, least_bytes: see `grouped`.
    """
    rows = []
    for k, apart in schedule(flat(jaxpr), least, least_bytes):
        arrays = sum(not t.total for t in k.targets)
        sizes = ",".join(map(str, k.shape))
        what = f"{_count(len(k.order), 'elementwise operation')}"
        what += f", {_count(len(k.targets) - arrays, 'sum')} of f32[{sizes}]"
        does = f"a loop that reads {_count(len(k.full), 'array')} and writes {arrays}: "
        does += f"{moved(k) / 1e6:.1f} MB, {(apart - moved(k)) / 1e6:.1f} MB less than one by one"
        rows.append(("(rewritten program)", what, does))
    return rows


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


__all__ = ["LEAST", "LEAST_BYTES", "described", "grouped"]
