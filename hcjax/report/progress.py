"""The progress line of a training run: steps, metrics, images/s and ETA.

In come completed steps and the latest metrics; out goes one line that is redrawn on a terminal,
or a plain line every few seconds elsewhere (a file, a pipe, a job's log).
"""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator
from typing import Self, TextIO

from hcjax.core import formats

_REDRAW_SECONDS = 0.1
_RATE_WINDOW_SECONDS = 5.0
_LEAST_STEPS, _LEAST_SECONDS = 2, 1.0  # that an ETA is estimated from


class Progress:
    """Shows a run's progress; a context manager that finishes the line at its exit.

    images/s is the speed of the last seconds; time inside `aside` is left out. ETA comes from all
    steps of this process that are finished, except the first one, which compiles, and from the time
    aside, where the longest of several, which compiles, does not count. It is `?` until there are
    two such steps and a second. Steps of earlier processes (`initial`) do not count.

    Args:
      total: steps of the whole run.
      initial: steps completed before this process, after a resume.
      batch_size: images per step, over all devices and hosts.
      quiet: shows nothing, e.g. on every host but the first.
      every_seconds: least time between two lines if `stream` is not a terminal. The default gives
        360 lines an hour.
      label: first words of the line, e.g. `"seed 3"`.
      unit: what a step has `batch_size` of.
      stream: the output; the default is standard error, so that results can be piped.
      clock: gives seconds; for tests.

    Note:
      `update` is cheap enough for every step: most calls only read the clock. Metrics are read
      when a line is drawn, at most 10 times a second. A device array that is still being computed
      then blocks the loop, so hand in metrics of an earlier step. A stream that breaks (a closed
      pipe, a full disk) ends the display, never the training.

    Example:
      >>> clock = iter([0, 1, 2, 3]).__next__
      >>> with Progress(200, batch_size=64, stream=sys.stdout, clock=clock) as p:
      ...     p.update(1)
      ...     p.update(101, loss=0.25, accuracy=0.5)
      step 101/200 (50 %)  stopped after 3 s  loss 0.25  accuracy 50.00 %  6,400 images/s
    """

    def __init__(
        self,
        total: int,
        *,
        initial: int = 0,
        batch_size: int = 1,
        quiet: bool = False,
        every_seconds: float = 10.0,
        label: str = "",
        unit: str = "images",
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ):
        self._total, self._step, self._batch_size = total, initial, batch_size
        self._quiet, self._label, self._clock = quiet, label, clock
        self._unit = unit
        self._stream = sys.stderr if stream is None else stream
        self._metrics: dict[str, object] = {}
        self._first: tuple[float, int] | None = None
        self._recent: collections.deque[tuple[float, int]] = collections.deque()
        self._asides: list[float] = []  # seconds of each since the first step
        self._start = self._clock()
        self._bar = None
        with self._forgiving():
            if not quiet and _is_terminal(self._stream):
                self._bar = _bar(total, initial, label, self._stream)
        self._every = every_seconds if self._bar is None else _REDRAW_SECONDS
        self._due = self._start + self._every

    def update(self, step: int, *, finished: int | None = None, **values: object) -> None:
        """Records completed steps, and redraws the line when it is due.

        Args:
          step: completed, or begun, steps of the whole run.
          finished: those that the device is done with, where the loop runs ahead of it; None for
            all.
          **values: the latest metrics by name, e.g. `loss=0.1, accuracy=0.98`; a metric stays on
            the line until its next value. Fractions are shown as percent.
        """
        if self._quiet:
            return
        now = self._clock()
        self._step = step if finished is None else finished
        if self._first is None:
            self._first, self._asides = (now, self._step), []
        self._metrics.update(values)
        self._mark(now - sum(self._asides), self._step)
        if now >= self._due and (self._bar is not None or step < self._total):
            self._due = now + self._every
            self._draw(now, f"ETA {formats.clock(self._eta(now))}")

    def note(self, text: str) -> None:
        """Writes a separate line above the progress line.

        Args:
          text: one line, e.g. the validation result of an epoch.
        """
        if self._quiet:
            return
        with self._forgiving():
            if self._bar is not None:
                self._bar.write(text, file=self._stream)
            else:
                print(text, file=self._stream, flush=True)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Excludes the time inside the `with` block (evaluation, checkpoints) from images/s."""
        start = self._clock()
        try:
            yield
        finally:
            self._asides.append(self._clock() - start)

    def close(self) -> None:
        """Draws the line a last time, with this process's total time, and ends it."""
        if self._quiet:
            return
        now = self._clock()
        verb = "done in" if self._step >= self._total else "stopped after"
        self._draw(now, f"{verb} {formats.duration(now - self._start)}")
        if self._bar is not None:
            with self._forgiving():
                self._bar.close()
        self._quiet = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def _eta(self, now: float) -> float | None:
        """Returns the estimated seconds to the end of the run; None while it would be a guess."""
        if self._first is None:
            return None
        since, first_step = self._first
        training, steps = now - since - sum(self._asides), self._step - first_step
        if steps < _LEAST_STEPS or now - since < _LEAST_SECONDS:
            return None
        aside, count = sum(self._asides), len(self._asides)
        if count > 1:  # the longest, which compiled, in the length of the others
            aside = (aside - max(self._asides)) * count / (count - 1)
        return (self._total - self._step) * (training + aside) / steps

    def _mark(self, now: float, step: int) -> None:
        """Records a time stamp for images/s, and drops stamps outside the window."""
        recent = self._recent
        if recent and (now < recent[-1][0] + _REDRAW_SECONDS or step == recent[-1][1]):
            return
        recent.append((now, step))
        while len(recent) > 2 and recent[1][0] <= now - _RATE_WINDOW_SECONDS:
            recent.popleft()

    def _images_per_second(self) -> float | None:
        """Returns the speed over the last seconds."""
        if len(self._recent) < 2 or self._recent[-1][1] <= self._recent[0][1]:
            return None
        (since, first), (until, last) = self._recent[0], self._recent[-1]
        return (last - first) * self._batch_size / (until - since)

    def _draw(self, now: float, end: str) -> None:
        """Writes the line, or redraws it."""
        # the time comes first: a narrow terminal cuts off the end
        parts = [end] + [
            f"{formats.label(k)} {formats.value(k, v)}" for k, v in self._metrics.items()
        ]
        speed = self._images_per_second()
        if speed is not None:
            rate = f"{speed:,.0f}" if speed >= 10 else f"{speed:.2g}"
            parts.append(f"{rate} {self._unit}/s")
        with self._forgiving():
            if self._bar is not None:
                self._bar.n = self._step
                self._bar.set_postfix_str("  ".join(parts), refresh=False)
                self._bar.refresh()
            else:
                done = f"({100 * self._step // max(self._total, 1)} %)"
                head = f"{self._label} step {self._step}/{self._total} {done}"
                print("  ".join([head.lstrip(), *parts]), file=self._stream, flush=True)

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        """Ends the display when the stream is gone."""
        try:
            yield
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._quiet = True
            if self._bar is not None:
                self._bar.disable = True  # or it tries again when it is deleted


def _is_terminal(stream: TextIO) -> bool:
    """Tells whether a line can be redrawn in `stream`."""
    return bool(getattr(stream, "isatty", bool)()) and os.environ.get("TERM") != "dumb"


def _bar(total: int, initial: int, label: str, stream: TextIO):
    """Creates a bar that is drawn only by `refresh`."""
    import tqdm

    return tqdm.tqdm(
        total=total,
        initial=initial,
        desc=label,
        file=stream,
        dynamic_ncols=True,
        bar_format="{desc}{percentage:3.0f} %|{bar}|{n_fmt}/{total_fmt}{postfix}",
    )
