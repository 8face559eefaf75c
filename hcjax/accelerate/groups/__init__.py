"""Groups of elementwise operations and of sums over all axes but the last, as generated loops.

In: a jaxpr. Out: a function in which loops, generated as C and built here, stand for such groups.
XLA's CPU compiler makes a loop of one array at a time, and slow ones of sums.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hcjax.accelerate.groups.evaluate import function
from hcjax.accelerate.groups.flat import flat
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
    kernels = schedule(program, least, least_bytes)
    if not kernels:
        return None
    try:
        return function(program, kernels)
    except build.BuildError:
        return None


__all__ = ["LEAST", "LEAST_BYTES", "grouped"]
