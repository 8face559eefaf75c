"""The OpenAPI document of a server, which tools for tests and clients read."""

from __future__ import annotations

from typing import Any

from hcjax.serve.signature import BYTES, DATATYPES
from hcjax.version import VERSION

_TEXT = {"type": "string"}
_TENSOR = {
    "type": "object",
    "required": ["name", "datatype", "shape"],
    "properties": {
        "name": _TEXT,
        "datatype": {"enum": [*DATATYPES, BYTES]},
        "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}},
        "data": {"type": "array"},
        "parameters": {"type": "object"},
    },
}
_INFER = {
    "type": "object",
    "required": ["inputs"],
    "properties": {
        "id": _TEXT,
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": 1, "items": _TENSOR},
        "outputs": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "properties": {"name": _TEXT, "parameters": {"type": "object"}},
            },
        },
    },
}
_ERRORS = {
    "400": "the request is not as expected",
    "401": "the token is missing or wrong",
    "404": "there is no such network",
    "405": "the path takes another method",
    "408": "the request came too slowly",
    "413": "the body is too long, or holds too many examples",
    "415": "the body is encoded, or an image that the network does not take",
    "503": "too many requests, or a late one: try again after Retry-After seconds",
}


def document() -> dict[str, Any]:
    """Returns the document, as JSON has it.

    Example:
      >>> sorted(document()["paths"])[:2]
      ['/metrics', '/v2']
    """
    paths: dict[str, Any] = {}

    def add(path, method, summary, body=None, kind="application/json"):
        names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
        content = {kind: {"schema": {} if kind == "application/json" else _TEXT}}
        operation: dict[str, Any] = {
            "summary": summary,
            "responses": {
                "200": {"description": "the answer", "content": content},
                **{code: {"description": text} for code, text in _ERRORS.items()},
            },
            "parameters": [
                {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names
            ],
        }
        if body:
            files = {"schema": {"type": "string", "format": "binary"}}
            content = {"application/json": {"schema": body}, "image/png": files}
            content |= {"image/jpeg": files, "application/octet-stream": files}
            operation["requestBody"] = {"required": True, "content": content}
        paths.setdefault(path, {})[method] = operation

    add("/v2", "get", "the server")
    add("/v2/health/live", "get", "whether it runs")
    add("/v2/health/ready", "get", "whether it takes requests")
    add("/v2/models", "get", "all networks")
    for base in ("/v2/models/{name}", "/v2/models/{name}/versions/{version}"):
        add(base, "get", "a network")
        add(f"{base}/ready", "get", "whether it takes requests")
        add(f"{base}/infer", "post", "its outputs for some inputs", _INFER)
        add(f"{base}/explain", "post", "which pixels of an image decided", _INFER)
    add("/v2/repository/index", "post", "all networks, as Triton lists them")
    add("/v2/repository/models/{name}/load", "post", "loads a network's file again")
    add("/metrics", "get", "the counters, as Prometheus reads them", kind="text/plain")
    return {
        "openapi": "3.0.3",
        "info": {"title": "hcjax: Open Inference Protocol v2", "version": VERSION},
        "paths": paths,
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}},
        "security": [{"token": []}, {}],
    }
