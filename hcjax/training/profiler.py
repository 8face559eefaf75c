"""A trace of some steps in the middle of a run, for TensorBoard's or Perfetto's viewer."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path

import jax


@contextmanager
def window(workdir: str | Path | None, start: int, steps: int):
    """Gives a function of the step that traces `steps` steps from `start` on."""
    running = False

    def at(step: int) -> None:
        nonlocal running
        if steps and step == start:
            jax.profiler.start_trace(str(Path(workdir or ".") / "profile"))
            running = True
        elif running and step == start + steps:
            jax.profiler.stop_trace()
            running = False

    yield at
    if running:
        jax.profiler.stop_trace()
