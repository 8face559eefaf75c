"""The routes of a server: what each path answers."""

from __future__ import annotations

import time
from importlib import resources

import orjson
from anyio import CapacityLimiter, fail_after, to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from hcjax.serve.answers import HEADER_LENGTH, write_answer
from hcjax.serve.door import Door
from hcjax.serve.limits import Limits, RequestError, busy
from hcjax.serve.metrics import Metrics
from hcjax.serve.openapi import document
from hcjax.serve.repository import Repository, Served
from hcjax.serve.requests import read_image, read_request
from hcjax.version import VERSION

_PAGE = {"/": ("page.html", "text/html"), "/page.js": ("page.js", "text/javascript"),
         "/page.css": ("page.css", "text/css")}  # fmt: skip
_THREADS = 2  # for large bodies, images and gradients
_BODIES = 4  # of the greatest length, that are held at a time
_LARGE = 1 << 16  # bytes of a body that is parsed in a thread
_READ = 8  # times the greatest length: so much of a longer body is read before it is refused
_SAFE = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}


def make_app(
    repository: Repository,
    limits: Limits,
    metrics: Metrics,
    *,
    token: str | None = None,
    logged: bool = False,
) -> Door:
    """Returns the ASGI application of a server.

    Args:
      repository: its networks, loaded. limits, metrics: of it. token: that requests must bear,
        other than those for health and the page; None for none. logged: whether to log each.
    """
    routes = _Routes(repository, limits, metrics)
    errors = {RequestError: _refused, HTTPException: _http_error, Exception: _failed}
    app = Starlette(routes=routes.table(), exception_handlers=errors)
    app.router.redirect_slashes = False
    most = limits.connections
    door = Door(app, token=token, metrics=metrics, most=most, logged=logged)
    routes.ending = lambda: door.ending
    return door


def _json(value, status: int = 200, headers: dict | None = None) -> Response:
    option = orjson.OPT_SERIALIZE_NUMPY
    text = orjson.dumps(value, option=option)
    return Response(text, status, headers, media_type="application/json")


def _refused(_, error: RequestError) -> Response:
    headers = {"connection": "close"} if error.status in (408, 413, 415) else {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    return _json({"error": str(error)}, error.status, headers)


def _http_error(_, error: HTTPException) -> Response:
    text = {404: "there is nothing of this path", 405: "this path takes another method"}
    return _json({"error": text.get(error.status_code, error.detail)}, error.status_code,
                 error.headers)  # fmt: skip


def _failed(_, error: Exception) -> Response:
    return _json({"error": "the server failed; its log says more"}, 500)


class _Routes:
    """The functions of the routes, and what they share."""

    def __init__(self, repository: Repository, limits: Limits, metrics: Metrics):
        self._repository, self._limits, self._metrics = repository, limits, metrics
        self._held = 0  # bytes of bodies that are read or parsed
        self._threads = CapacityLimiter(_THREADS)
        self.ending = lambda: False  # then it is not ready any more
        self._page = {
            path: Response(
                resources.files("hcjax.serve").joinpath("page", file).read_bytes(),
                media_type=kind,
                headers=_SAFE,
            )
            for path, (file, kind) in _PAGE.items()
        }

    def table(self) -> list[Route]:
        """Returns all routes, those that are asked for most first."""
        post = {"methods": ["POST"]}
        found = [
            Route("/v2/models/{name}/infer", self._infer, **post),
            Route("/v2/models/{name}/versions/{version}/infer", self._infer, **post),
        ]
        for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
            found += [
                Route(base, self._metadata),
                Route(f"{base}/ready", self._model_ready),
                Route(f"{base}/explain", self._explain, **post),
            ]
        return [
            *found,
            Route("/v2", self._server),
            Route("/v2/health/live", self._live),
            Route("/v2/health/ready", self._ready),
            Route("/v2/models", self._models),
            Route("/v2/repository/index", self._index, **post),
            Route("/v2/repository/models/{name}/load", self._load, **post),
            Route("/metrics", self._counters),
            Route("/openapi.json", self._openapi),
            *[Route(path, self._static) for path in _PAGE],
        ]

    async def _infer(self, request: Request) -> Response:
        served = self._named(request)
        asked, start = await self._asked(request, served)
        most = self._limits.deadline_seconds
        end = start + min(asked.timeout or most, most)
        left = end - time.monotonic()
        result = await served.batcher.submit(asked.arrays, asked.rows, left)
        if time.monotonic() > end:  # others had their turn before this
            raise busy("it was computed, but could not be answered before its deadline", 1)
        place = served.place
        body, headers = write_answer(
            asked, result.arrays, served.takes.outputs, name=place.name, version=place.version,
            milliseconds=1e3 * result.seconds,
        )  # fmt: skip
        served.predictions.count(result.arrays[0])
        if served.watch is not None:
            served.watch.add(asked.arrays[0], result.arrays[0])
        served.latency.observe(time.monotonic() - start)
        return Response(body, headers=headers)

    async def _asked(self, request: Request, served: Served):
        """Returns the checked request of JSON, binary tensors or an image; when it had come."""
        held: list[bytes] = []
        try:
            body = await self._body(request, held)
            start = time.monotonic()
            return await self._parsed(request, body, served), start
        finally:
            self._release(held)

    def _release(self, parts: list[bytes]) -> None:
        self._held -= sum(map(len, parts))
        parts.clear()

    async def _aside(self, function, *arguments):
        """Returns what a function does in one of a few threads, so that others are answered."""
        try:
            with fail_after(self._limits.deadline_seconds):
                return await to_thread.run_sync(function, *arguments, limiter=self._threads)
        except TimeoutError as error:
            raise busy("images and large bodies of others took too long", 1) from error

    async def _parsed(self, request: Request, body: bytes, served: Served):
        headers = request.headers
        kind = headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind.startswith("image/"):
            limits, takes = self._limits, served.takes
            return await self._aside(read_image, body, takes, limits)
        length = headers.get(HEADER_LENGTH)
        arguments = (body, length, served.takes, self._limits)
        # others are answered meanwhile: an image of a few kB may have millions of pixels
        if len(body) > _LARGE or b"BYTES" in body:
            return await self._aside(read_request, *arguments)
        return read_request(*arguments)

    async def _body(self, request: Request, parts: list[bytes]) -> bytes:
        """Returns a request's body, if it is not too long, and adds its parts to a list."""
        most = self._limits.body_bytes
        encoding = request.headers.get("content-encoding", "identity")
        if encoding.lower() not in ("", "identity"):
            raise RequestError(f"bodies are not decoded; found content-encoding {encoding}", 415)
        size, said = 0, int(request.headers.get("content-length", 0))  # the parser checked it
        long = RequestError(f"the body may have {most} bytes; found more", 413)
        if said > most and (said > _READ * most or "expect" in request.headers):
            raise long
        try:
            async for part in request.stream():
                size += len(part)
                if size > _READ * most:
                    break
                if size > most:  # a client that still sends would not see the answer
                    self._release(parts)
                    continue
                if self._held + len(part) > _BODIES * most:
                    raise busy(f"the bodies of others hold {self._held} bytes", 1)
                parts.append(part)
                self._held += len(part)
        except ClientDisconnect as error:
            raise RequestError("the client left before the end of the body") from error
        if size > most:
            raise long
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def _named(self, request: Request) -> Served:
        return self._repository.get(**request.path_params)

    async def _explain(self, request: Request) -> Response:
        served = self._named(request)
        if served.explain is None:
            text = "has no gradients: a classifier of images in float is needed"
            raise RequestError(f"{served.place.name} {text}")
        asked, _ = await self._asked(request, served)
        if asked.rows != 1:
            raise RequestError(f"one image is explained at a time; found {asked.rows}")
        label, pixels = await self._aside(served.explain, asked.arrays[0])
        names = served.about.get("class_names", ())
        name = names[label] if label < len(names) else str(label)
        return _json({"class": label, "name": name, "shape": pixels.shape, "data": pixels.ravel()})

    async def _metadata(self, request: Request) -> Response:
        return _json(self._described(self._named(request)))

    def _described(self, served: Served) -> dict:
        def tensors(found):
            return [{"name": t.name, "datatype": t.datatype, "shape": t.sizes} for t in found]

        facts = served.facts | {
            "class_names": served.about.get("class_names", []),
            "task": served.about.get("task", "classification"),
            "image_shape": served.takes.pixels.shape if served.takes.pixels else None,
            "logits": len(served.takes.outputs) == len(served.takes.outputs[0].shape) == 1,
            "explains": served.explain is not None,
            "version": served.place.version,
        }  # fmt: skip
        return {
            "name": served.place.name,
            "versions": self._repository.versions(served.place.name),
            "platform": f"hcjax_{served.facts['engine']}",
            "inputs": tensors(served.takes.inputs),
            "outputs": tensors(served.takes.outputs),
            "parameters": facts,
        }

    async def _models(self, request: Request) -> Response:
        return _json({"models": [self._described(each) for each in self._repository.all()]})

    async def _index(self, request: Request) -> Response:
        return _json([
            {"name": each.place.name, "version": each.place.version, "state": "READY", "reason": ""}
            for each in self._repository.all()
        ])  # fmt: skip

    async def _load(self, request: Request) -> Response:
        loaded = await self._repository.reload(request.path_params["name"])
        return _json({"loaded": [{"version": s.place.version, **s.facts} for s in loaded]})

    async def _server(self, request: Request) -> Response:
        extensions = ["binary_tensor_data", "model_repository"]
        return _json({"name": "hcjax", "version": VERSION, "extensions": extensions})

    async def _live(self, request: Request) -> Response:
        return _json({"live": True})

    async def _ready(self, request: Request) -> Response:
        ending = self.ending()
        return _json({"ready": not ending}, 503 if ending else 200,
                     {"retry-after": "1"} if ending else None)  # fmt: skip

    async def _model_ready(self, request: Request) -> Response:
        served = self._named(request)
        return _json({"name": served.place.name, "ready": True})

    async def _counters(self, request: Request) -> Response:
        return Response(self._metrics.text(), media_type="text/plain; version=0.0.4")

    async def _openapi(self, request: Request) -> Response:
        return _json(document())

    async def _static(self, request: Request) -> Response:
        return self._page[request.url.path]
