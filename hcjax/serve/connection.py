"""A connection of uvicorn with limits that uvicorn lacks: bytes of headers, and time for each part.

Whoever sends a request's headers or body too slowly, or opens a connection and says nothing, is
told 408; headers that are too long, 431. A request that comes whole costs no timer.
"""

from __future__ import annotations

import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from hcjax.serve.limits import Limits

_LATE = 0.5  # seconds for what was sent before the client learns that the server ends


class Connection(HttpToolsProtocol):
    """One connection; a subclass from `connection_of` knows the limits."""

    limits = Limits()
    _timer = None
    _heading = False  # within a request's line and headers
    _reading = False  # within a request
    _bytes = 0  # of the headers so far
    _begun = 0  # requests
    _ending = False

    def connection_made(self, transport) -> None:
        """Begins; the first request must come in time."""
        super().connection_made(transport)
        # an answer is written in two parts; the second would wait 40 ms for the first's receipt
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._watch(self.limits.header_seconds)

    def connection_lost(self, exc) -> None:
        """Ends."""
        self._watch(None)
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
                self._refuse(b"431 Request Header Fields Too Large", b"the headers are too long")
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
            raise ValueError("the headers are too long")  # the parser's error: status 400

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
            self._refuse(b"408 Request Timeout", b"the headers came too slowly")
        elif self.cycle.response_started:
            self.transport.close()
        else:
            self._refuse(b"408 Request Timeout", b"the body came too slowly")

    def _refuse(self, status: bytes, text: bytes) -> None:
        """Answers for the application, and closes."""
        body = b'{"error":"%b"}' % text
        self.transport.write(
            b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n"
            b"connection: close\r\n\r\n%b" % (status, len(body), body)
        )
        self.transport.close()


def connection_of(limits: Limits) -> type[Connection]:
    """Returns the class of connections with these limits."""
    return type("Connection", (Connection,), {"limits": limits})
