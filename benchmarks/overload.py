"""Overloads a server, changes its file under load, and ends it under load.

    python benchmarks/overload.py

The network is a ResNet-20 in integers, since the clients, in Python, must be faster than the
server. First three times the requests that it can answer arrive, whether it answers or not: each
must be answered within its deadline, or refused with 503. Then its file changes five times: no
request may fail. Then SIGTERM ends it, five times: no request may be lost that it accepted. The
exit code is 1 if one of it fails.
"""

import argparse
import asyncio
import collections
import os
import pathlib
import re
import shutil
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parents[1]))

import jax
import numpy as np
from malformed import memory
from serving import NAME, request_of, wrk

import hcjax
from tests.serve import networks

DEADLINE = 1.0  # seconds
MORE_MB = 300


async def arriving(port: int, body: bytes, headers: dict, rate: float, seconds: float, most=800):
    """Sends so many requests a second, whether or not they are answered.

    Returns:
      (seconds from when a request was due to its answer, status) of each; None for no answer, 0
      for those that were not sent, since all of `most` connections waited.
    """
    head = f"POST /v2/models/{NAME}/infer HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n"
    head += "".join(f"{key}: {value}\r\n" for key, value in headers.items()) + "\r\n"
    content, free, found, open_now = head.encode() + body, [], [], 0

    async def ask(due):
        nonlocal open_now
        try:
            if free:
                reader, writer = free.pop()
            elif open_now < most:
                open_now += 1
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
            else:
                found.append((0.0, 0))
                return
            writer.write(content)
            answer = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"\r\ncontent-length: (\d+)", answer)[1])
            await reader.readexactly(length)
            found.append((time.perf_counter() - due, int(answer[9:12])))
            if b"connection: close" in answer:
                writer.close()
                open_now -= 1
            else:
                free.append((reader, writer))
        except (OSError, asyncio.IncompleteReadError):
            open_now -= 1
            found.append((0.0, None))

    start, tasks = time.perf_counter(), []
    for i in range(int(rate * seconds)):
        due = start + i / rate
        if (left := due - time.perf_counter()) > 0:
            await asyncio.sleep(left)
        elif i % 16 == 0:
            await asyncio.sleep(0)  # others get their turn
        tasks.append(asyncio.create_task(ask(due)))
    await asyncio.gather(*tasks)
    for _, writer in free:
        writer.close()
    return found


def overload(file: pathlib.Path, x: np.ndarray, folder: pathlib.Path, seconds: int) -> list[str]:
    """Prints what becomes of three times the requests that a server can answer; what was wrong."""
    body, headers = request_of(x, True)
    flags = (f"--deadline_seconds={DEADLINE}",)
    with networks.Server(f"{NAME}={file}", "--engine=jit", *flags) as server:
        url = f"{server.url}/v2/models/{NAME}/infer"
        rate = wrk(url, x, True, folder, seconds, clients=64)["rate"]
        before = memory(server.process.pid)
        found = asyncio.run(arriving(server.port, body, headers, 3 * rate, seconds))
        more = memory(server.process.pid) - before
        with urllib.request.urlopen(f"{server.url}/metrics") as answer:
            counts = answer.read().decode()
        code, rest = server.end()
    seen = collections.Counter(status for _, status in found)
    times = np.array([elapsed for elapsed, status in found if status == 200] or [0.0])
    # by the server's own clock, which begins when a request has come
    late = re.search(rf'hcjax_latency_seconds_bucket{{le="{DEADLINE}",.*}} (\S+)', counts)
    total = re.search(r"hcjax_latency_seconds_count{.*} (\S+)", counts)
    beyond = float(total[1]) - float(late[1])
    print(f"sustainable: {rate:,.0f}/s; offered: {len(found) / seconds:,.0f}/s for {seconds} s; "
          f"answered 200: {seen[200] / seconds:,.0f}/s, 503: {seen[503] / seconds:,.0f}/s; "
          f"statuses {dict(seen)}")  # fmt: skip
    p50, p99 = np.percentile(times, [50, 99])
    print(f"accepted: p50 {p50:.3f} s, p99 {p99:.3f} s, longest {times.max():.3f} s as the client "
          f"sees it; {beyond:.0f} later than the deadline of {DEADLINE} s; memory {more:.0f} MB "
          f"more")  # fmt: skip
    problems = [f"{n} answers {s}" for s, n in seen.items() if s not in (0, 200, 503)]
    problems += [f"{beyond:.0f} beyond their deadline"] * (beyond > 0)
    return problems + ["memory"] * (more > MORE_MB) + [f"exit {code}: {rest[-500:]}"] * (code != 0)


def reloads(files: list[pathlib.Path], x: np.ndarray, folder: pathlib.Path) -> list[str]:
    """Prints how many requests failed while a file changed five times; what was wrong."""
    file = folder / "changing.hcz"
    shutil.copy(files[0], file)
    with networks.Server(f"{NAME}={file}", "--engine=jit", "--watch_seconds=0") as server:
        load = networks.Load(server.port, request_of(x, False)[0], clients=16, name=NAME)
        for i in range(5):
            shutil.copy(files[(i + 1) % 2], folder / "new")
            os.replace(folder / "new", file)
            url = f"{server.url}/v2/repository/models/{NAME}/load"
            with urllib.request.urlopen(url, b"") as answer:
                answer.read()
        load.stop()
        server.end()
    print(f"5 reloads in {len(load.answers):,} requests: {len(load.failures)} failed")
    return load.failures


def ends(file: pathlib.Path, x: np.ndarray, times: int) -> list[str]:
    """Prints how many requests were lost when a server was ended; what was wrong."""
    answered, lost = 0, []
    for _ in range(times):
        with networks.Server(f"{NAME}={file}", "--engine=jit") as server:
            load = networks.Load(server.port, request_of(x, False)[0], clients=16, name=NAME)
            time.sleep(2)
            code, rest = server.end()
            load.stop()
            answered += len(load.answers)
            lost += load.failures + ([f"exit {code}: {rest[-500:]}"] if code else [])
    print(f"{times} ends by SIGTERM in {answered:,} requests: {len(lost)} lost")
    return lost


def trials(seconds: int, folder: pathlib.Path) -> int:
    """Overloads, reloads and ends a server; returns the exit code."""
    network = hcjax.models.create("resnet20", num_classes=10, input_shape=(28, 28, 1))
    x = np.random.default_rng(0).normal(size=(8, 28, 28, 1)).astype(np.float32)
    files = []
    for seed in range(2):
        params, state = network.init(jax.random.key(seed))
        apply = hcjax.inference(network.apply, state)
        model = hcjax.fold(hcjax.trace(apply, params, x[:1]))
        about = {"class_names": list("0123456789"), "mean": [0.1], "std": [0.3]}
        small = hcjax.int8(model, hcjax.calibrate(model, x))
        files.append(networks.write(folder / f"{seed}.hcz", small, about))
    problems = overload(files[0], x[:1], folder, seconds)
    problems += reloads(files, x[:1], folder) + ends(files[0], x[:1], 5)
    print("problems: " + ("; ".join(problems) or "none"))
    return int(bool(problems))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=10, help="of the overload")
    options = parser.parse_args()
    if not shutil.which("wrk"):
        print("wrk is not here; Debian has it")
        return 2
    with tempfile.TemporaryDirectory() as name:
        return trials(options.seconds, pathlib.Path(name))


if __name__ == "__main__":
    sys.exit(main())
