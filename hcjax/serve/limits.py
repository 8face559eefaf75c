"""What a server accepts at most, and the error of what it refuses."""

from __future__ import annotations

import math
from typing import NamedTuple

from hcjax.errors import HcjaxError


class Limits(NamedTuple):
    """The limits of a server; all are > 0 but `wait_ms`, which may be 0.

    body_bytes: of a request. header_bytes: of its line and headers. pixels: of a request's image
    files together, before they are decoded. rows: examples of a request. batch: examples that are
    computed together. queue: examples that wait for one network. queue_bytes: of the arrays of
    those. wait_ms: how long the first example of a batch waits for others, in milliseconds.
    deadline_seconds: from the last byte of a request to its answer. header_seconds, body_seconds:
    from the first byte of either to its last; an answer must be taken within body_seconds.
    connections: requests that are answered at a time; twice as many may be open.
    """

    body_bytes: int = 32 << 20
    header_bytes: int = 16 << 10
    pixels: int = 16 << 20
    rows: int = 1024
    batch: int = 64
    queue: int = 4096
    queue_bytes: int = 256 << 20
    wait_ms: float = 0.0
    deadline_seconds: float = 5.0
    header_seconds: float = 10.0
    body_seconds: float = 30.0
    connections: int = 1000


class RequestError(HcjaxError, ValueError):
    """A request cannot be answered: it says what was expected and what was found.

    status: of HTTP. retry_after: seconds after which to try again; None if that would not help.
    """

    def __init__(self, message: str, status: int = 400, retry_after: float | None = None):
        super().__init__(message)
        self.status, self.retry_after = status, retry_after


def busy(message: str, seconds: float) -> RequestError:
    """Returns the error 503 of a request that may be sent again.

    Args:
      message: why. seconds: after which to send it again, rounded up, at least 1.

    Example:
      >>> busy("the queue is full", 0.2).retry_after
      1
    """
    return RequestError(message, 503, max(1, math.ceil(seconds)))
