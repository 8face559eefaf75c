"""Sends malformed requests to a server: it must refuse each, keep its memory and stay right.

    python benchmarks/malformed.py --requests 50000
    python benchmarks/malformed.py --requests 50000 --schemathesis VENV/bin/schemathesis

Random bytes, changed and deep JSON, huge numbers, keys given twice, wrong shapes, NaN, images and
gzip that decompress to much more, bodies that are too long or never end, floods of headers and of
requests, broken chunks; with schemathesis also what its OpenAPI document allows. One in ten goes
over a connection of its own, as bytes; a hundred slow clients stay all the time. The exit code is 1
if an answer is a 5xx other than 503, the server takes more than 300 MB more, its log has an error,
or a right request is not answered as before.
"""

import argparse
import collections
import http.client
import json
import pathlib
import random
import re
import socket
import subprocess
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import numpy as np

from tests.serve import networks, strangers

LIMITS = ("--pixels=100000", "--body_bytes=100000", "--header_seconds=1", "--body_seconds=1",
          "--rows=100", "--batch=8")  # fmt: skip
RAW = 100  # connections at a time
MORE_MB = 300  # a client may hold four bodies, two threads decode images
SLOW = b"POST /v2/models/dense/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 50\r\n\r\n{"


def memory(pid: int) -> float:
    """Returns the most memory that a process has had, in MB; 0 where that cannot be told."""
    try:
        text = pathlib.Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0.0
    return int(re.search(r"VmHWM:\s+(\d+)", text)[1]) / 1e3


class Slow(threading.Thread):
    """Clients that send a byte now and then, again and again, until `stop`."""

    def __init__(self, port: int, clients: int):
        super().__init__(daemon=True)
        self.port, self.clients, self.seen, self.over = port, clients, collections.Counter(), False

    def run(self) -> None:
        while not self.over:
            sockets = [
                socket.create_connection(("127.0.0.1", self.port), timeout=10)
                for _ in range(self.clients)
            ]
            for s in sockets:
                s.sendall(SLOW)
            time.sleep(0.5)
            for s in sockets:
                try:
                    s.sendall(b" ")
                    self.seen.update(strangers.statuses(s.recv(1000)) or [None])
                except OSError:
                    self.seen[None] += 1
                s.close()

    def stop(self) -> None:
        self.over = True
        self.join()


def bad(status: int | None) -> bool:
    """Returns whether an answer must not be."""
    return status is not None and status >= 500 and status != 503


def malformed(count: int, seed: int) -> int:
    """Sends malformed requests and prints what became of them; returns the exit code."""
    place, x = networks.folder(), np.ones((1, 4, 4, 1), np.float32)
    tensor = {"name": "images", "datatype": "FP32", "shape": x.shape, "data": x.ravel().tolist()}
    good = json.dumps({"inputs": [tensor]}).encode()
    names = [f"dense={place / 'dense.hcz'}", f"int8={place / 'int8.hcz'}"]
    seen, rng, problems = collections.Counter(), random.Random(seed), []
    with networks.Server(*names, "--engine=jit", *LIMITS) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)

        def right(path):
            connection.request("POST", f"/v2/models/{path}/infer", good)
            return json.loads(connection.getresponse().read())["outputs"]

        before = [right(name) for name in ("dense", "int8")]
        start, at_first = time.monotonic(), memory(server.process.pid)
        slow = Slow(server.port, RAW)
        slow.start()
        done = 0
        while done < count:
            for _ in range(min(9 * RAW, count - done)):
                status = strangers.ask(connection, rng, good)
                seen[status] += 1
                done += 1
            contents = [strangers.raw(rng, good) for _ in range(min(RAW, count - done))]
            for each in strangers.send_raw(server.port, contents, 1.5):
                seen.update(each or [None])
            done += len(contents)
            if [right(name) for name in ("dense", "int8")] != before:
                problems.append(f"after {done} requests a right one is answered otherwise")
        slow.stop()
        more = memory(server.process.pid) - at_first
        seconds = time.monotonic() - start
        connection.close()
        code, rest = server.end()
    errors = [line for line in rest.splitlines() if '"error"' in line or "Traceback" in line]
    problems += [f"{n} answers {status}" for status, n in seen.items() if bad(status)]
    problems += [f"{n} slow clients got {status}" for status, n in slow.seen.items() if bad(status)]
    problems += [f"{more:.0f} MB more"] * (more > MORE_MB) + errors[:5]
    problems += [f"exit code {code}"] * (code != 0)

    def show(counter):
        return ", ".join(f"{k or 'none'}: {counter[k]:,}" for k in sorted(counter, key=str))

    print(f"{done:,} malformed requests in {seconds:.0f} s, answers by status: {show(seen)}")
    print(f"slow clients: {show(slow.seen)}; memory: {more:.0f} MB more than {at_first:.0f}")
    print("problems: " + ("; ".join(problems) or "none; right afterwards"))
    return int(bool(problems))


def schemathesis(program: str, examples: int) -> int:
    """Lets schemathesis try what the server's OpenAPI document allows; returns its exit code."""
    with networks.Server(f"dense={networks.folder() / 'dense.hcz'}", "--engine=jit") as server:
        command = [program, "run", f"{server.url}/openapi.json", "--checks",
                   "not_a_server_error", "--max-examples", str(examples)]  # fmt: skip
        return subprocess.run(command).returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=50_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--schemathesis", help="its program")
    parser.add_argument("--examples", type=int, default=200, help="of schemathesis, a path")
    options = parser.parse_args()
    code = malformed(options.requests, options.seed)
    if options.schemathesis:
        code |= schemathesis(options.schemathesis, options.examples)
    return code


if __name__ == "__main__":
    sys.exit(main())
