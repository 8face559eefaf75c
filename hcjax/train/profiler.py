"""A trace of some steps in the middle of a run, for TensorBoard's or Perfetto's viewer."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax


@contextmanager
def window(workdir: str | Path | None, start: int, steps: int, newest: Callable[[], Any]):
    """Yields `at(step)`, which traces `steps` steps from `start` on.

    Args:
      workdir: the trace goes to its folder `profile`; None for the current folder's.
      start: completed steps at which the trace begins; a run that ends earlier warns.
      steps: how many; 0 traces nothing.
      newest: returns the outputs of the last step; the trace waits for them.
    """
    running = reached = False

    def stop() -> None:
        nonlocal running
        running = False
        try:
            jax.block_until_ready(newest())  # steps run on after the host has dispatched them
        finally:
            jax.profiler.stop_trace()

    def at(step: int) -> None:
        nonlocal running, reached
        if steps and step == start:
            jax.profiler.start_trace(str(Path(workdir or ".") / "profile"))
            running = reached = True
        elif running and step == start + steps:
            stop()

    try:
        yield at
    finally:
        if running:
            stop()
    if steps and not reached:
        text = f"no trace was written: it begins after step {start}, and the run ended before"
        warnings.warn(text, stacklevel=3)
