"""Requests that wait for one network, computed together: a bounded queue on the event loop.

While a batch is computed the next one gathers. A batch that takes less than 3 ms is computed on the
event loop, since handing it to a thread costs more; a longer one in the network's thread.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from hcjax.serve.engines import Engine, sizes, zeros
from hcjax.serve.limits import Limits, busy

_SHORT = 3e-3  # seconds


class Result(NamedTuple):
    """What was computed for a request: its outputs, and the seconds and examples of its batch."""

    arrays: list[np.ndarray]
    seconds: float
    rows: int


class _Waiting(NamedTuple):
    arrays: list[np.ndarray]
    rows: int
    bytes: int
    deadline: float
    future: asyncio.Future


class Batcher:
    """The queue of one network.

    Args:
      engine: computes batches of up to `limits.batch`. limits: of the server. observed: called with
        the examples and seconds of each batch.
    """

    def __init__(
        self,
        engine: Engine,
        limits: Limits,
        observed: Callable[[int, float], None] = lambda rows, seconds: None,
    ):
        self._engine, self._limits, self._observed = engine, limits, observed
        self._batched = [leaf.batched for leaf in jax.tree.leaves(engine.inputs)]
        self._given = [leaf.batched for leaf in jax.tree.leaves(engine.outputs)]
        self._queue: deque[_Waiting] = deque()
        self._thread = ThreadPoolExecutor(1, "hcjax-serve")
        self._computing, self._timer = False, None
        self.rows = self._bytes = 0  # that wait
        self._seconds = {size: self._measured(size) for size in sizes(limits.batch)}
        self._load = 1.0  # times as long as was measured

    def submit(self, arrays: list[np.ndarray], rows: int, timeout: float) -> asyncio.Future:
        """Returns the future Result of a request.

        Args:
          arrays: of the engine's inputs. rows: examples. timeout: seconds until it is no use.

        Raises:
          RequestError: 503, if the queue is full, or so long that the request would be late; the
            future fails likewise if it is late all the same.
        """
        limits, size = self._limits, sum(x.nbytes for x in arrays)
        wait = self._load * self._expected(self.rows) if self.rows else 0.0
        if timeout <= 0:
            raise busy("its deadline was over before it could wait", max(wait, 1))
        if self.rows and self.rows + rows > limits.queue:
            raise busy(f"{self.rows} examples wait already, of at most {limits.queue}", wait)
        if self.rows and self._bytes + size > limits.queue_bytes:
            raise busy(f"{self._bytes} bytes wait already, of at most {limits.queue_bytes}", wait)
        if wait > timeout:
            raise busy(f"the queue is {wait:.3g} s long, the deadline is in {timeout:.3g} s", wait)
        future = asyncio.get_running_loop().create_future()
        self._queue.append(_Waiting(arrays, rows, size, time.monotonic() + timeout, future))
        self.rows += rows
        self._bytes += size
        if not self._computing:
            self._plan()
        return future

    async def close(self) -> None:
        """Waits until all that was accepted is computed; the thread ends with the queue."""
        while self._queue or self._computing:
            await asyncio.sleep(0.005)

    def _measured(self, size: int) -> float:
        """Returns the seconds of a batch of zeros: the least of three."""
        arrays, times = zeros(self._engine.inputs, size), []
        for _ in range(3):
            start = time.perf_counter()
            self._engine.run(arrays)
            times.append(time.perf_counter() - start)
        return min(times)

    def _expected(self, rows: int) -> float:
        """Returns the seconds in which so many examples were computed when nothing else ran."""
        most = self._limits.batch
        size = next((size for size in self._seconds if size >= rows), None)
        return self._seconds[size] if size else self._seconds[most] * rows / most

    def _plan(self) -> None:
        """Computes soon: at once if a batch is full, else after the time that it may wait."""
        loop, wait = asyncio.get_running_loop(), self._limits.wait_ms / 1e3
        if self._timer is None:
            later = loop.call_later(wait, self._compute) if wait else loop.call_soon(self._compute)
            self._timer = later
        elif self.rows >= self._limits.batch and wait:
            self._timer.cancel()
            self._timer = loop.call_soon(self._compute)

    def _compute(self) -> None:
        """Computes the first batch of those that wait, and those after it in turn."""
        self._timer = None
        if self._computing:
            return
        batch = self._next()
        if not batch:
            return
        loop = asyncio.get_running_loop()
        if self._expected(sum(each.rows for each in batch)) < _SHORT:
            self._finish(batch, *self._run(batch))
            if self._queue:  # others get their turn between two batches
                self._timer = loop.call_soon(self._compute)
            return
        self._computing = True
        done = loop.run_in_executor(self._thread, self._run, batch)
        done.add_done_callback(lambda future: self._returned(batch, future))

    def _returned(self, batch: list[_Waiting], future: asyncio.Future) -> None:
        self._computing = False
        self._finish(batch, *future.result())
        if self._queue:
            self._plan()

    def _next(self) -> list[_Waiting]:
        """Takes the requests of one batch, and refuses those whose deadline is over."""
        batch, rows, now = [], 0, time.monotonic()
        while self._queue:
            first = self._queue[0]
            if batch and (rows + first.rows > self._limits.batch or not all(self._batched)):
                break
            self._queue.popleft()
            self.rows -= first.rows
            self._bytes -= first.bytes
            if first.future.done():  # whoever asked has left
                continue
            if now > first.deadline:
                first.future.set_exception(busy("it waited beyond its deadline", 1))
                continue
            batch.append(first)
            rows += first.rows
        return batch

    def _run(
        self, batch: list[_Waiting]
    ) -> tuple[list[np.ndarray] | None, float, Exception | None]:
        """Returns the outputs of a batch, its seconds, and what went wrong."""
        start = time.perf_counter()
        try:
            if len(batch) == 1:
                arrays = batch[0].arrays
            else:
                arrays = [np.concatenate(x) for x in zip(*(b.arrays for b in batch), strict=True)]
            rows, most = sum(each.rows for each in batch), self._limits.batch
            parts = [
                self._engine.run(
                    [
                        x[i : i + most] if b else x
                        for x, b in zip(arrays, self._batched, strict=True)
                    ]
                )
                for i in range(0, rows, most)
            ]
            results = [
                (y[0] if len(y) == 1 else np.concatenate(y)) if given else y[0]
                for y, given in zip(zip(*parts, strict=True), self._given, strict=True)
            ]
            return results, time.perf_counter() - start, None
        except Exception as error:
            return None, time.perf_counter() - start, error

    def _finish(self, batch, results, seconds, error) -> None:
        """Gives each request its rows."""
        rows, at, now = sum(each.rows for each in batch), 0, time.monotonic()
        self._load = 0.9 * self._load + 0.1 * seconds / self._expected(rows)
        self._observed(rows, seconds)
        for each in batch:
            if each.future.done():
                pass
            elif error is not None:
                each.future.set_exception(error)
            elif now > each.deadline:
                each.future.set_exception(busy("it was computed beyond its deadline", 1))
            else:
                part = slice(at, at + each.rows)
                own = [
                    y[part] if given else y for y, given in zip(results, self._given, strict=True)
                ]
                each.future.set_result(Result(own, seconds, rows))
            at += each.rows
