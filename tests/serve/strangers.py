"""Requests as strangers send them, each from a seed; shared with `benchmarks/malformed.py`."""

import base64
import contextlib
import functools
import gzip
import http.client
import json
import selectors
import socket
import struct
import time
import zlib

PATHS = (*["dense"] * 5, *["int8"] * 4, "dense/versions/1", "no", "..", "%00", "dense/versions/9")


GZIP = gzip.compress(b"[" + b"0," * 500_000 + b"0]")  # 1 MB in 1 kB


@functools.cache
def bomb(side, text=0):
    """Returns a PNG file of a few bytes that says it has side x side pixels, and long text."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = [(b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")]
    if text:
        parts.insert(1, (b"zTXt", b"a\0\0" + zlib.compress(b"a" * text)))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def changed(rng, good):
    """Returns a right body in whose JSON something stands that JSON or NumPy stumbles over."""
    deep = rng.choice([10, 500, 1000, 1100])
    something = rng.choice([
        "1" * 5000, "-" + "9" * 400, "1e999", "-0.0", "NaN", "Infinity", "1" + "0" * 308 + ".5",
        "[" * deep + "]" * deep, '{"a":' * deep + "1" + "}" * deep, '"\\ud800"', '"\\u0000"',
        '"' + "a" * 10_000 + '"', "18446744073709551616", "-9223372036854775809", "true", "null",
    ])  # fmt: skip
    key = rng.choice(["id", "inputs", "outputs", "parameters", "name", "shape", "data", "datatype"])
    text = good.decode()
    if rng.random() < 0.3:  # a key twice
        return text.replace("{", f'{{"{key}":{something},', 1).encode()
    if rng.random() < 0.4:  # a number among others
        return text.replace("1.0", something, rng.choice([1, 16])).encode()
    return text.replace(f'"{key}": ', f'"{key}": {something}, "other": ', 1).encode()


def raw(rng, good):
    """Returns bytes for a connection: no HTTP, or HTTP with a part that is wrong."""
    head = b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: a\r\n"
    length = b"Content-Length: %d\r\n" % len(good)
    return rng.choice([
        lambda: rng.randbytes(rng.randrange(1, 300)),
        lambda: head + rng.randbytes(rng.randrange(1, 200)),
        lambda: head + b"".join(b"X%d: %d\r\n" % (i, i) for i in range(3000)) + b"\r\n",  # headers
        lambda: head + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        lambda: (head + length + b"\r\n" + good) * rng.choice([2, 20, 200]),  # pipelined
        lambda: b"GET /v2 HTTP/1.1\r\nHost: a\r\n\r\n" * 3000,
        lambda: head + length * 2 + b"\r\n" + good,
        lambda: head + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + good,
        lambda: head + b"Content-Length: 99999999999999999999\r\n\r\n" + good,
        lambda: head + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + good,
        lambda: head + b"Transfer-Encoding: chunked\r\n\r\n"
        + rng.choice([b"fffffffffffffffff\r\n", b"-1\r\n", b"5\r\nab", b"2\r\nabcd\r\n", b"0\r\n"])
        + good,
        lambda: head + length + b"Connection: upgrade\r\nUpgrade: h2c\r\n\r\n" + good,
        lambda: head + length + b"Expect: 100-continue\r\n\r\n",
        lambda: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + rng.randbytes(50),
        lambda: b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n",
        lambda: b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + rng.randbytes(200),
        lambda: (head + length + b"\r\n" + good)[: rng.randrange(200)],  # and no more
    ])()  # fmt: skip


def send_raw(port, contents, seconds):
    """Sends each content over a connection of its own, at once; returns the statuses of each.

    seconds: after which nothing more is waited for.
    """
    found, ends = [[] for _ in contents], time.monotonic() + seconds
    with selectors.DefaultSelector() as waiting:
        for i, content in enumerate(contents):
            s = socket.create_connection(("127.0.0.1", port), timeout=10)
            s.settimeout(0.2)
            with contextlib.suppress(OSError):  # it is refused before its end
                s.sendall(content)
            waiting.register(s, selectors.EVENT_READ, (i, bytearray()))
        while (left := ends - time.monotonic()) > 0 and waiting.get_map():
            for key, _ in waiting.select(left):
                i, seen = key.data
                try:
                    more = key.fileobj.recv(1 << 16)
                except OSError:
                    more = b""
                seen += more
                if not more:
                    waiting.unregister(key.fileobj)
                    key.fileobj.close()
                    found[i] = statuses(seen)
        for key in list(waiting.get_map().values()):
            found[key.data[0]] = statuses(key.data[1])
            key.fileobj.close()
    return found


def statuses(seen):
    """Returns the status of each answer in the bytes of a connection."""
    parts = bytes(seen).split(b"HTTP/1.1 ")[1:]
    return [int(part[:3]) for part in parts if part[:3].isdigit()]


def tensor(rng):
    """Returns a tensor of which any part may be wrong."""
    some = [
        [1],
        [[]],
        {},
        ["AA=="],
        [1e400],
        [float("nan")] * 16,
        [0] * 16,
        [[[[0]] * 4] * 4],
        None,
    ]
    sizes = [-1, 0, 1, 4, 1 << 40, 1.5, None, "4", True]
    shape = [rng.choice(sizes) for _ in range(rng.randrange(6))]
    size = {"binary_data_size": rng.choice([-1, 4, 64, 1 << 70, "4"])}
    found = {
        "name": rng.choice(["images"] * 6 + ["", 7]),
        "datatype": rng.choice(["FP32"] * 4 + ["UINT8", "BYTES", 7, "BOOL"]),
        "shape": rng.choice([[1, 4, 4, 1], shape]),
        "data": rng.choice(some),
        "parameters": rng.choice([{}, [], size]),
    }
    for key in list(found):
        if rng.random() < 0.1 or (key == "parameters" and rng.random() < 0.7):
            del found[key]
    return found


def body(rng, good):
    """Returns a body: random bytes, a changed request, wrong tensors, or what decoders fear."""
    kind = rng.randrange(8)
    if kind == 0:
        return rng.randbytes(rng.randrange(300))
    if kind == 1:
        other = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            other[rng.randrange(len(other))] = rng.randrange(256)
        return bytes(other)
    if kind == 2:
        document = {"inputs": [tensor(rng) for _ in range(rng.randrange(3))]}
        if rng.random() < 0.3:
            document["outputs"] = rng.choice(
                [[], [7], [{"name": "other"}], {}, [{"name": "logits"}]]
            )
        if rng.random() < 0.3:
            document["parameters"] = rng.choice([{"timeout": rng.choice([0, -1, 1 << 60])}, 7])
        return json.dumps(document).encode()
    if kind == 3:
        return rng.choice([b"[", b'{"a":']) * rng.choice([10, 1000, 5000])
    if kind == 4:
        side = rng.choice([1, 4, 317, 9999, 50_000, (1 << 31) - 1])
        file = bomb(side, rng.choice([0, 0, 50_000_000])) + rng.randbytes(rng.randrange(9))
        if rng.random() < 0.5:
            return file
        count = rng.choice([1, 2, 500])
        data = [base64.b64encode(file).decode()] * (1 if side > 4 else count)
        image = {"name": "images", "datatype": "BYTES", "shape": [count], "data": data}
        return json.dumps({"inputs": [image]}).encode()
    if kind == 5:
        return changed(rng, good)
    if kind == 6:
        return rng.choice([GZIP, b"x" * 150_000, b"[" + b"{}," * 30_000 + b"{}]"])
    return rng.choice(
        [b"", b"null", b"0", b"\xff\xfe", b'"' + b"a" * 1000 + b'"', good[:-1], good * 2]
    )


def ask(connection, rng, good):
    """Sends one bad request; returns the status, or None if the server ended the connection."""
    headers = {}
    if rng.random() < 0.3:
        length = rng.choice([0, 1, 40, 400, -5, "x", 1 << 70])
        headers["Inference-Header-Content-Length"] = str(length)
    if rng.random() < 0.4:
        kinds = ["image/png", "image/jpeg", "text/plain", "application/octet-stream", "\xe9"]
        headers["content-type"] = rng.choice(kinds)
    if rng.random() < 0.05:
        headers["content-encoding"] = "gzip"
    path = f"/v2/models/{rng.choice(PATHS)}/{rng.choice(['infer'] * 4 + ['explain', 'x'])}"
    try:
        connection.request(rng.choice(["POST"] * 9 + ["PUT"]), path, body(rng, good), headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (http.client.HTTPException, OSError):
        connection.close()
        return None
