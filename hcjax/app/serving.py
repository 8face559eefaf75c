"""`hcjax serve ARTIFACT...`: answers requests for networks over HTTP, until it is ended."""

from __future__ import annotations

import os
import re
import secrets
from pathlib import Path

from absl import flags

from hcjax.app import command
from hcjax.core import optional
from hcjax.errors import ConfigError
from hcjax.runs import saved
from hcjax.serve.limits import Limits
from hcjax.serve.place import Place

TOKEN = "HCJAX_TOKEN"  # of the environment
_PACKAGES = ("starlette", "uvicorn", "httptools", "orjson", "prometheus_client")
_USAGE = f"""Answers requests for networks over HTTP, Open Inference Protocol v2, with a page at /.

  PROGRAM model.hcz                              at http://127.0.0.1:8000
  PROGRAM float=runs/lenet int8=int8.hcz         several, by name
  PROGRAM digits:1=old.hcz digits:2=new.hcz      several versions of one
  PROGRAM model.hcz --token_file=token --certificate=cert.pem --key=key.pem

A network is a packed file or the workdir of a run. A file that changes is loaded anew, and takes
the place of the one before when it is ready. The token comes from --token_file, or from {TOKEN}
in the environment; without either everybody is answered, which needs --insecure beyond this
machine.

Flags:"""
_LOCAL = ("127.0.0.1", "localhost", "::1")


def main(argv: list[str]) -> int:
    """Returns the exit code of the command line, once the server has been ended.

    Args:
      argv: program name and arguments.
    """
    return command.run(argv, _USAGE, define, _act)


def define(values: flags.FlagValues) -> None:
    """Adds the flags of a server."""

    def text(name, default, help):
        flags.DEFINE_string(name, default, help, flag_values=values)

    text("host", "127.0.0.1", "Address to listen at; 0.0.0.0 for all.")
    flags.DEFINE_integer("port", 8000, "Port; 0 for any free one.", 0, 65535, flag_values=values)
    text("engine", "auto", "What computes: c, jax, jit, onnxruntime; auto: c if it can, or jax.")
    text("token_file", None, "File of the token that requests must bear.")
    text("certificate", None, "File of the TLS certificate chain, PEM.")
    text("key", None, "File of its private key, PEM.")
    flags.DEFINE_bool("insecure", False, "Listen beyond this machine without a token.",
                      flag_values=values)  # fmt: skip
    flags.DEFINE_bool("log_requests", False, "Log every request.", flag_values=values)
    flags.DEFINE_float("watch_seconds", 1.0, "Between two looks at the files; 0 for none.", 0.0,
                       flag_values=values)  # fmt: skip
    for name, meaning in _LIMITS.items():
        usual = Limits._field_defaults[name]
        least = 0 if name == "wait_ms" else 1e-3 if isinstance(usual, float) else 1
        define = flags.DEFINE_float if isinstance(usual, float) else flags.DEFINE_integer
        define(name, usual, meaning, least, flag_values=values)


_LIMITS = {
    "body_bytes": "Of a request, at most.",
    "header_bytes": "Of a request's headers, at most.",
    "pixels": "Of the image files of a request together, at most.",
    "rows": "Examples of a request, at most.",
    "batch": "Examples that are computed together, at most.",
    "queue": "Examples that wait for one network, at most.",
    "queue_bytes": "Bytes of their arrays, at most.",
    "wait_ms": "Milliseconds that a batch waits for others to join it.",
    "deadline_seconds": "Until a request is answered, or refused with 503.",
    "header_seconds": "In which a request's headers must come.",
    "body_seconds": "In which its body must come.",
    "connections": "Requests answered at a time, at most; twice as many may be open.",
}


def _act(values, arguments: list[str], changes: list[tuple[str, str]]) -> int:
    if changes:
        raise ConfigError("a server has no config; its settings are flags (see --help)")
    if not arguments:
        raise ConfigError("name packed files or workdirs, e.g. model.hcz (see --help)")
    for package in _PACKAGES:
        optional.require(package, extra="serve", what="hcjax serve")
    from hcjax.serve.server import Address, serve

    if (values.certificate is None) != (values.key is None):
        raise ConfigError("TLS needs both --certificate and --key")
    for file in filter(None, (values.certificate, values.key)):
        if not Path(file).is_file():
            raise ConfigError(f"{file} is not there; --certificate and --key name PEM files")
    token = _token(values.token_file)
    if token is None and values.host not in _LOCAL and not values.insecure:
        example = secrets.token_urlsafe(24)
        raise ConfigError(
            f"--host={values.host} is open to others: set {TOKEN}={example} or --token_file, or "
            "say --insecure"
        )
    limits = Limits(**{name: getattr(values, name) for name in Limits._fields})
    address = Address(values.host, values.port, values.certificate, values.key)
    serve(
        [place_of(text) for text in arguments], address, limits, load=saved.load_any,
        engine=values.engine, token=token, watch_seconds=values.watch_seconds,
        logged=values.log_requests,
    )  # fmt: skip
    return 0


def place_of(text: str) -> Place:
    """Returns what an argument of the command names: PATH, NAME=PATH or NAME:VERSION=PATH.

    Example:
      >>> place_of("runs/a.hcz")[:2], place_of("digits:3=runs/a.hcz")[:2]
      (('a', '1'), ('digits', '3'))

    Raises:
      ConfigError: if the name or the version is not legal.
    """
    named, equals, path = text.partition("=")
    if not equals or Path(text).expanduser().exists():
        named, path = "", text
    place = saved.alone(Path(path).expanduser())
    stem = place.stem if place.suffix == saved.SUFFIX else place.resolve().name
    named = named or re.sub(r"[^\w.-]", "-", stem, flags=re.ASCII)
    found = re.fullmatch(r"(\w[\w.-]{0,99})(?::(\d{1,9}))?", named, re.ASCII)
    if found is None:
        expected = "NAME=PATH or NAME:VERSION=PATH, a name of letters, digits, -, _ and ., a whole"
        raise ConfigError(f"expected {expected} number as version; found {text!r}")
    return Place(found[1], found[2] or "1", place)


def _token(file: str | None) -> str | None:
    """Returns the token of a file, or of the environment; None if there is neither."""
    token = os.environ.get(TOKEN) if file is None else Path(file).expanduser().read_text().strip()
    if token is not None and (not token or not token.isascii() or not token.isprintable()):
        where = file or TOKEN
        raise ConfigError(f"the token in {where} must be printable ASCII, and not empty")
    return token
