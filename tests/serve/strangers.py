"""Requests as strangers send them, each from a seed; shared with `benchmarks/serve.py`."""

import http.client
import json
import struct
import zlib

PATHS = (*["dense"] * 5, *["int8"] * 4, "dense/versions/1", "no", "..", "%00", "dense/versions/9")


def bomb(side):
    """Returns a PNG file of a few bytes that says it has side x side pixels."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    head = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(b"\0" * 1000)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


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
    kind = rng.randrange(6)
    if kind == 0:
        return rng.randbytes(rng.randrange(300))
    if kind == 1:
        changed = bytearray(good)
        for _ in range(rng.randrange(1, 4)):
            changed[rng.randrange(len(changed))] = rng.randrange(256)
        return bytes(changed)
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
        return bomb(rng.choice([1, 4, 317, 9999, 50_000, (1 << 31) - 1])) + rng.randbytes(
            rng.randrange(9)
        )
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
