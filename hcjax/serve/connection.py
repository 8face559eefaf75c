"""A connection of uvicorn with limits that uvicorn lacks: of headers, of time, and of connections.

Whoever sends a request's headers or body too slowly is told 408; headers that are too long, 431.
A connection ends on which nothing is said, or whose answers nobody takes. A request that comes
whole costs no timer.
"""

from __future__ import annotations

import socket

import orjson
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hcjax.serve.limits import Limits

_LATE = 0.5  # seconds for what was sent before the client learns that the server ends
_AHEAD = 32  # requests that a client may send before it has the answer of the first
_STATUS = {400: b"400 Bad Request", 408: b"408 Request Timeout",
           431: b"431 Request Header Fields Too Large"}  # fmt: skip
_NO_HTTP = 400, "this is no HTTP/1.1 that the server understands"
_LONG = 431, "the headers are too long"
_UPGRADE = 400, "connections are not upgraded: ask in HTTP/1.1, without the header Upgrade"
_PIPELINED = 400, f"more than {_AHEAD} requests at once: wait for answers"


class _Whole:
    """A transport that writes together what is written in one turn: an answer's head and body.

    Each write is a call of the system, a tenth of what a small request costs. What is written after
    the end is dropped: the answer of a request whose connection was refused meanwhile.
    """

    def __init__(self, transport, loop):
        self._transport, self._soon, self._parts = transport, loop.call_soon, []

    def __getattr__(self, name):
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Writes in this turn."""
        if not self._parts:
            self._soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Closes once all is written."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts and not self._transport.is_closing():
            self._transport.write(b"".join(self._parts))
        self._parts.clear()


class Connection(HttpToolsProtocol):
    """One connection; a subclass from `connection_of` knows the limits."""

    limits = Limits()
    _timer = None
    _unread = None  # the timer of an answer that the client does not take
    _problem = _NO_HTTP  # what the parser's error means
    _heading = False  # within a request's line and headers
    _reading = False  # within a request
    _bytes = 0  # of the headers so far
    _begun = 0  # requests
    _ending = False

    def connection_made(self, transport) -> None:
        """Begins; the first request must come in time."""
        super().connection_made(_Whole(transport, self.loop))
        if len(self.connections) > 2 * self.limits.connections:
            transport.abort()  # files that this process may open are few
            return
        # or the next answer would wait up to 40 ms for the receipt of the one before
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch(self.limits.header_seconds)

    def connection_lost(self, exc) -> None:
        """Ends."""
        self._watch(None)
        self._taken()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Takes bytes; watches a request that is not whole yet."""
        heading, idle = self._heading or not self._reading, not self._reading
        begun = self._begun
        super().data_received(data)
        if self.transport.is_closing() or not self._reading:
            self._watch(None)
        elif self._heading:
            if begun == self._begun:
                self._bytes += len(data)
            elif idle and begun + 1 == self._begun:
                self._bytes = len(data)  # else it came with requests before it: it begins at 0
            if self._bytes > self.limits.header_bytes:
                self._refuse(*_LONG)
            elif self._timer is None:
                self._watch(self.limits.header_seconds)
        elif heading or self._timer is None:
            self._watch(self.limits.body_seconds)

    def on_message_begin(self) -> None:
        """A request's first byte."""
        self._heading = self._reading = True
        self._bytes = self._counted = 0
        self._begun += 1
        super().on_message_begin()

    def on_url(self, url: bytes) -> None:
        """A part of its path."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header, or a trailer, which has no meaning here."""
        self._count(len(name) + len(value) + 4)
        if self._heading:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The last of its headers: the application begins."""
        self._heading = False
        if self.parser.should_upgrade():  # the parser would lose its body
            self._fail(_UPGRADE)
        if len(self.pipeline) >= _AHEAD:
            self._fail(_PIPELINED)
        super().on_headers_complete()
        if self._ending:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """Its last byte."""
        self._reading = False
        super().on_message_complete()

    def shutdown(self) -> None:
        """Ends once what was sent is answered; what is on its way still gets an answer."""
        self._ending = True
        if self.cycle is not None and not self.cycle.response_complete:
            self.cycle.keep_alive = False
        elif not self._reading:
            self.loop.call_later(_LATE, self._end_idle)

    def _end_idle(self) -> None:
        idle = self.cycle is None or self.cycle.response_complete
        if idle and not self._reading and not self.transport.is_closing():
            self.transport.close()

    def _count(self, more: int) -> None:
        self._counted += more
        if self._counted > self.limits.header_bytes:
            self._fail(_LONG)

    def _fail(self, problem: tuple[int, str]) -> None:
        """Ends the parsing from within it."""
        self._problem = problem
        raise ValueError(problem)

    def send_400_response(self, msg: str) -> None:
        """Answers what is no request."""
        self._refuse(*self._problem)

    def pause_writing(self) -> None:
        """The client does not take its answers: it has some time to."""
        super().pause_writing()
        self._unread = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It does."""
        self._taken()
        super().resume_writing()

    def _taken(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None

    def _watch(self, seconds: float | None) -> None:
        """Sets the timer anew, or removes it."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = self.loop.call_later(seconds, self._too_slow)

    def _too_slow(self) -> None:
        self._timer = None
        if not self._reading:
            self.transport.close()  # nobody asked
        elif self.cycle is None or self.cycle.response_complete or self._heading:
            self._refuse(408, "the headers came too slowly")
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(408, "the body came too slowly")

    def _refuse(self, status: int, text: str) -> None:
        """Answers for the application, and closes."""
        body = orjson.dumps({"error": text})
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (_STATUS[status], len(body), body)
        )
        self.transport.close()


def connection_of(limits: Limits) -> type[Connection]:
    """Returns the class of connections with these limits."""
    return type("Connection", (Connection,), {"limits": limits})
