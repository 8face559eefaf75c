"""A server as a process: listens, watches files, and finishes what it accepted when it is ended."""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, NamedTuple

import uvicorn

from hcjax.errors import ConfigError, PlatformError
from hcjax.serve import logs
from hcjax.serve.connection import connection_of
from hcjax.serve.limits import Limits
from hcjax.serve.metrics import Metrics
from hcjax.serve.place import Place
from hcjax.serve.repository import Load, Repository
from hcjax.serve.routes import make_app

_SWITCH = 5e-4  # seconds in which a thread that has computed gets its turn; Python's are 5e-3
_FILES = 200  # that are open besides connections


class Address(NamedTuple):
    """Where a server listens: host and port (0 for any free one), and TLS files, or None."""

    host: str = "127.0.0.1"
    port: int = 8000
    certificate: str | None = None
    key: str | None = None


def serve(
    places: Sequence[Place],
    address: Address,
    limits: Limits,
    *,
    load: Load,
    engine: str = "auto",
    token: str | None = None,
    watch_seconds: float = 1.0,
    logged: bool = False,
) -> None:
    """Loads networks, and answers until SIGTERM or SIGINT; then finishes what was accepted.

    Args:
      places: the networks. address: where to listen. limits: of the server. load: as of
        `Repository`. engine: in `ENGINES`, or "auto". token: that requests must bear; None for
        none. watch_seconds: between two looks at the files, which are loaded anew if they changed;
        0 for none. logged: whether to log each request.

    Raises:
      HcjaxError: if a network cannot be loaded, or the address cannot be listened at.
    """
    listening = _listening(address)  # what cannot be had is said before anything is loaded
    sys.setswitchinterval(_SWITCH)
    _allow_files(2 * limits.connections + _FILES)
    logs.start()
    metrics = Metrics()
    repository = Repository(places, load, engine, limits, metrics)
    repository.load_all()
    for served in repository.all():
        name, version, path = served.place
        logs.log("loaded", model=name, version=version, path=path, **served.facts)
    app = make_app(repository, limits, metrics, token=token, logged=logged)
    options: dict[str, Any] = {"ssl_certfile": address.certificate, "ssl_keyfile": address.key}
    config = uvicorn.Config(
        app, host=address.host, port=address.port, http=connection_of(limits), ws="none",
        lifespan="off", log_config=None, access_log=False, server_header=False, proxy_headers=False,
        backlog=2048,
        timeout_keep_alive=60, timeout_graceful_shutdown=int(limits.deadline_seconds) + 30,
        **options,
    )  # fmt: skip
    try:
        config.load()
    except OSError as error:  # of ssl
        text = f"{address.certificate} and {address.key} must be a certificate and its key in PEM"
        raise ConfigError(f"{text}; found: {error}") from error
    server = _Server(config, app, repository, watch_seconds)
    with asyncio.Runner(loop_factory=config.get_loop_factory()) as runner:  # uvloop, if it is there
        runner.run(server.serve(sockets=[listening]))


def _listening(address: Address) -> socket.socket:
    """Returns the socket of an address; PlatformError if it cannot be had."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    try:
        return socket.create_server((address.host, address.port), family=family, backlog=2048)
    except OSError as error:
        where = f"{address.host}:{address.port}"
        raise PlatformError(f"cannot listen at {where}: {error.strerror}; see --port") from error


def _allow_files(count: int) -> None:
    """Lets this process open so many files, or as many as the system lets it."""
    with suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


class _Server(uvicorn.Server):
    """A server of uvicorn that says where it listens, watches files and ends with exit code 0."""

    def __init__(self, config, app, repository: Repository, watch_seconds: float):
        super().__init__(config)
        self._door, self._repository = app, repository
        self._watch_seconds, self._watching = watch_seconds, None

    async def startup(self, sockets=None) -> None:
        """Listens."""
        await super().startup(sockets)
        if self.started and self.servers:
            host, port = self.servers[0].sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            logs.log("ready", url=f"{scheme}://{host}:{port}")
            if self._watch_seconds:
                self._watching = asyncio.create_task(self._watch())

    async def shutdown(self, sockets=None) -> None:
        """Answers what was accepted."""
        logs.log("ending")
        if self._watching:
            self._watching.cancel()
        await super().shutdown(sockets)
        await self._repository.close()
        logs.log("ended")

    def handle_exit(self, sig: int, frame) -> None:
        """Takes a signal; the process ends by itself, not by the signal again."""
        self._door.ending = True
        self.force_exit = self.should_exit and sig == signal.SIGINT
        self.should_exit = True

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self._watch_seconds)
            for place, problem in await self._repository.reload_changed():
                event = "loaded again" if problem is None else "not loaded, the one before goes on"
                logs.log(event, model=place.name, version=place.version, problem=problem)
