"""What a plan says while it compiles: which program, of about how many, and how long is left."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator


class Progress:
    """Counts compilations, and says a line before and after each.

    Args:
      total: the compilations that are expected; more of them, or fewer, are no error.
      say: called with one line of text.
      clock: seconds from any moment.

    Example:
      >>> progress = Progress(2, print, clock=iter([0.0, 8.0, 9.0, 13.0]).__next__)
      >>> with progress.compiling("the training step"):
      ...     pass
      compiling 1 of about 2: the training step
        8.0 s
      >>> with progress.compiling("the evaluation step"):
      ...     pass
      compiling 2 of about 2: the evaluation step (8 s left at the mean so far)
        4.0 s
    """

    def __init__(
        self,
        total: int,
        say: Callable[[str], None],
        *,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._total, self._say, self._clock = total, say, clock
        self._seconds: list[float] = []

    @contextlib.contextmanager
    def compiling(self, what: str) -> Iterator[None]:
        """Says what is compiled inside the block, then how long it took, or why it failed.

        Args:
          what: the program, in words.
        """
        done = len(self._seconds)
        total = max(self._total, done + 1)
        line = f"compiling {done + 1} of about {total}: {what}"
        if done:
            mean = sum(self._seconds) / done
            line += f" ({mean * (total - done):.0f} s left at the mean so far)"
        self._say(line)
        start, outcome = self._clock(), ""
        try:
            yield
        except Exception as error:
            outcome = f"; {getattr(error, 'outcome', 'failed')}"
            raise
        finally:
            self._seconds.append(self._clock() - start)
            self._say(f"  {self._seconds[-1]:.1f} s{outcome}")
