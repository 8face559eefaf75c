"""What stands before every route: the token, the number of open requests, and the status count."""

from __future__ import annotations

import hmac
import logging
import time
from collections.abc import Awaitable, Callable

import orjson

from hcjax.serve.logs import log
from hcjax.serve.metrics import Metrics

OPEN = ("/v2/health/live", "/v2/health/ready", "/", "/page.js", "/page.css", "/favicon.ico")


class Door:
    """An ASGI application around another.

    Args:
      app: answers. token: that requests must bear, or None. metrics: of the server. most: requests
        at a time. logged: whether all requests are logged, or only those that the server failed.
    """

    def __init__(
        self, app: Callable, *, token: str | None, metrics: Metrics, most: int, logged: bool
    ):
        self._app, self._most, self._logged, self._open = app, most, logged, 0
        self._token = None if token is None else token.encode()
        self._answers, self._counters = metrics.answers, {}
        self.ending = False  # then clients are told that their connections end

    async def __call__(self, scope, receive, send) -> Awaitable[None]:
        """Answers one request."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        status, start = 0, time.perf_counter()

        async def sent(message):
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self.ending:
                    headers = [*message.get("headers", ()), (b"connection", b"close")]
                    message = message | {"headers": headers}
            await send(message)

        self._open += 1
        try:
            if not self._admits(scope):
                await _refuse(sent, 401, "a token is needed: Authorization: Bearer TOKEN",
                              (b"www-authenticate", b"Bearer"))  # fmt: skip
            elif self._open > self._most:
                text = f"{self._most} requests are answered already"
                await _refuse(sent, 503, text, (b"retry-after", b"1"))
            else:
                await self._app(scope, receive, sent)
        finally:
            self._open -= 1
            if status not in self._counters:
                self._counters[status] = self._answers.labels(str(status))
            self._counters[status].inc()
            failed = status >= 500 and status != 503  # those are counted; there may be many
            if self._logged or failed:
                level = logging.WARNING if failed else logging.INFO
                seconds = round(time.perf_counter() - start, 6)
                facts = {"method": scope["method"], "path": scope["path"][:200]}
                log("request", level=level, status=status, seconds=seconds, **facts)

    def _admits(self, scope) -> bool:
        if self._token is None or scope["path"] in OPEN:
            return True
        given = [value for name, value in scope["headers"] if name == b"authorization"]
        scheme, _, token = given[0].partition(b" ") if len(given) == 1 else (b"", b"", b"")
        return scheme.lower() == b"bearer" and hmac.compare_digest(token.strip(), self._token)


async def _refuse(send, status: int, text: str, header: tuple[bytes, bytes]) -> None:
    """Answers with an error, and closes the connection, since the body is not read."""
    body = orjson.dumps({"error": text})
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"connection", b"close"),
        header,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
