"""Connections that are slow, long or no HTTP, over real sockets; TLS and tokens of the command."""

import asyncio
import contextlib
import json
import select
import socket
import threading
import time

import pytest

from hcjax.errors import ConfigError

uvicorn = pytest.importorskip("uvicorn")
pytest.importorskip("httptools")

from hcjax.app import serving  # noqa: E402
from hcjax.serve.connection import connection_of  # noqa: E402
from hcjax.serve.limits import Limits  # noqa: E402

LIMITS = Limits(header_bytes=2000, header_seconds=0.3, body_seconds=0.3)


async def echo(scope, receive, send):
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body, more = body + message.get("body", b""), message.get("more_body", False)
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": body})


@contextlib.contextmanager
def listening(limits):
    """Gives the port of a server of `echo`."""
    config = uvicorn.Config(echo, port=0, http=connection_of(limits), ws="none", lifespan="off",
                            log_config=None)  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve()), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join(10)


@pytest.fixture(scope="module")
def port():
    with listening(LIMITS) as port:
        yield port


def over(s):
    """Returns whether what came is an error, after which nothing is read."""
    return b" 200 " not in s.recv(1 << 16, socket.MSG_PEEK)


def talk(port, *parts, pause=0.0):
    """Sends parts with pauses; returns what comes until the connection ends, or nothing comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=2) as s:
        found = b""
        try:
            for i, part in enumerate(parts):
                if i and select.select([s], [], [], pause)[0] and over(s):
                    break  # it is over
                s.sendall(part)
            while more := s.recv(1 << 16):
                found += more
        except (TimeoutError, ConnectionError):
            pass
        return found


HEAD = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n"


def test_requests_are_answered_whole_in_parts_and_one_after_another(port):
    whole = HEAD + b"Connection: close\r\n\r\nfour"
    assert talk(port, whole).endswith(b"\r\n\r\nfour")
    cut = [whole[i : i + 9] for i in range(0, len(whole), 9)]
    assert talk(port, *cut, pause=0.01).endswith(b"four")
    two = talk(port, HEAD + b"\r\nfour" + whole)
    assert two.count(b" 200 ") == 2
    three = talk(port, HEAD + b"\r\nfour", HEAD + b"\r\nfour", whole, pause=0.2)
    assert three.count(b" 200 ") == 3  # each part in its time, all of them longer than one's


def test_the_body_before_a_request_is_no_part_of_its_headers(port):
    long = HEAD.replace(b": 4", b": 5000") + b"\r\n" + b"a" * 5000
    whole = HEAD + b"Connection: close\r\n\r\nfour"
    for first in (long, long * 2, long[:60]):
        rest = long[60:] if first == long[:60] else b""
        found = talk(port, first, rest + whole[:9], whole[9:], pause=0.1)
        assert found.count(b" 200 ") == 2 + (first == long * 2) and found.endswith(b"four")


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ([HEAD[:9]], b" 408 "),
        ([HEAD + b"X: ", *[b"y"] * 9], b" 408 "),  # a byte now and then
        ([HEAD + b"\r\nfo"], b" 408 "),
        ([HEAD + b"\r\n", *[b"a"] * 3], b" 408 "),
        ([HEAD + b"X: " + b"y" * 3000 + b"\r\n\r\nfour"], b" 431 "),
        ([HEAD + b"X: " + b"y" * 1500, b"y" * 1500], b" 431 "),
        ([b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n\r\n"], b" 431 "),
        ([HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nfour"], b" 400 "),
        ([(HEAD + b"\r\nfour") * 200], b" 400 "),  # none is answered yet
        ([b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"], b" 400 "),
        ([b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: x\r\n\r\n"], b" 400 "),
        ([b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"], b" 400 "),
        ([b""], b""),  # nothing is said
    ],
)  # fmt: skip
def test_what_is_slow_long_or_no_http_ends_soon(port, parts, said):
    start = time.monotonic()
    found = talk(port, *parts, pause=0.14)
    assert time.monotonic() - start < 1.8  # before our own end of patience
    assert said in found.partition(b"\r\n")[0] and (said or not found), found
    assert talk(port, HEAD + b"Connection: close\r\n\r\nfour").endswith(b"four")


def test_errors_of_connections_are_json_and_say_what_to_do(port):
    for parts, text in ((HEAD + b"Connection: Upgrade\r\nUpgrade: h2c\r\n\r\nfour", "Upgrade"),
                        ((HEAD + b"\r\nfour") * 200, "wait for answers"),
                        (b"no HTTP\r\n\r\n", "HTTP/1.1")):  # fmt: skip
        head, _, body = talk(port, parts).partition(b"\r\n\r\n")
        assert b"application/json" in head and text in json.loads(body)["error"]


def test_whoever_does_not_take_answers_is_left(port):
    body = b"a" * 1_000_000
    head = HEAD.replace(b": 4", b": 1000000") + b"\r\n"
    with socket.create_connection(("127.0.0.1", port), timeout=3) as s:
        with pytest.raises(ConnectionError):  # the server's end of it is gone
            for _ in range(100):
                s.sendall(head + body)
        with contextlib.suppress(OSError):
            while s.recv(1 << 20):
                pass
    assert talk(port, HEAD + b"Connection: close\r\n\r\nfour").endswith(b"four")


def test_connections_have_a_bound():
    with listening(LIMITS._replace(connections=2, header_seconds=9.0)) as port:
        sockets = [socket.create_connection(("127.0.0.1", port), timeout=0.3) for _ in range(6)]
        over = []
        for i, s in enumerate(sockets):
            with contextlib.suppress(TimeoutError):
                with contextlib.suppress(ConnectionError):
                    assert s.recv(9) == b""
                over.append(i)
        for s in sockets:
            s.close()
        assert over == [4, 5]
        assert talk(port, HEAD + b"Connection: close\r\n\r\nfour").endswith(b"four")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "name packed files"),
        (["a.hcz", "--host=0.0.0.0"], "is open to others"),
        (["a.hcz", "--certificate=a.pem"], "both"),
        (["a.hcz", "--certificate=a.pem", "--key=b.pem"], "a.pem is not there"),
        (["a.hcz", "--config.seed=1"], "no config"),
        (["none.hcz"], "none.hcz"),
        (["a b=none.hcz"], "NAME:VERSION=PATH"),
        (["x=none.hcz", "x=other.hcz"], "same name"),
        (["a.hcz", "--batch=0"], "batch"),
    ],
)
def test_a_command_that_cannot_serve_says_why(arguments, text, capsys, monkeypatch):
    monkeypatch.delenv(serving.TOKEN, raising=False)
    assert serving.main(["hcjax serve", *arguments]) == 2
    assert text in capsys.readouterr().err


def test_tokens_come_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv(serving.TOKEN, "mine")
    assert serving._token(None) == "mine"
    file = tmp_path / "token"
    file.write_text("yours\n")
    assert serving._token(str(file)) == "yours"
    file.write_text("\n")
    with pytest.raises(ConfigError, match="not empty"):
        serving._token(str(file))
