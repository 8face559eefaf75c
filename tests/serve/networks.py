"""Small networks in files, and servers of them: in this process, or a program of their own."""

import functools
import http.client
import json
import os
import subprocess
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np

import hcjax
from hcjax.graph.interface import Leaf
from tests import tiny
from tests.tiny import ROOT

ABOUT = {"class_names": ["ant", "bee", "cat"], "mean": [0.5], "std": [0.25]}


def dense(seed=0, side=4):
    """Returns a float Model of one dense layer: images [N, side, side, 1] to 3 classes."""
    weights = np.random.default_rng(seed).normal(size=(side * side, 3)).astype(np.float32)
    apply = lambda p, x: x.reshape(x.shape[0], -1) @ p["w"]
    model = hcjax.trace(apply, {"w": jnp.asarray(weights)}, jnp.ones((1, side, side, 1)))
    return model.replace(about=ABOUT)


def two():
    """Returns a Model of two inputs and two outputs."""

    def apply(p, x, k):
        return {"sum": x @ p["w"] + k[:, None].astype(x.dtype), "twice": 2 * k}

    example = jnp.ones((1, 3)), jnp.ones(1, jnp.int32)
    return hcjax.trace(apply, {"w": jnp.eye(3)}, *example)


def write(path, model, about=None):
    """Packs a Model, whole or not at all; returns the path."""
    about = about if about is not None else model.about or {}
    other = path.with_name(f"{path.name}.new")
    other.write_bytes(hcjax.pack(model, about=about))
    os.replace(other, path)
    return path


@functools.cache
def folder():
    """Returns a folder with the files dense.hcz, int8.hcz and two.hcz."""
    place = tiny.folder() / "serve"
    place.mkdir(exist_ok=True)
    model = dense()
    images = jnp.asarray(np.random.default_rng(1).normal(size=(32, 4, 4, 1)), jnp.float32)
    write(place / "dense.hcz", model)
    write(place / "int8.hcz", hcjax.int8(model, hcjax.calibrate(model, images)), ABOUT)
    write(place / "two.hcz", two(), {})
    return place


class Slow:
    """An engine that doubles its input after some seconds."""

    inputs, outputs = (Leaf((2,), np.dtype("float32")),), Leaf((2,), np.dtype("float32"))

    def __init__(self, seconds=0.0):
        self.seconds, self.batches = seconds, []

    def run(self, arrays):
        time.sleep(self.seconds)
        self.batches.append(len(arrays[0]))
        return [2 * arrays[0]]


class Server:
    """A server as a program of its own; `.url` once it is ready."""

    def __init__(self, *arguments, **environment):
        command = [sys.executable, "-m", "hcjax.serve", *map(str, arguments), "--port=0"]
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.events = []
        for line in self.process.stderr:
            try:
                self.events.append(json.loads(line))
            except ValueError:
                self.events.append({"event": line})
            if self.events[-1]["event"] == "ready":
                break
        else:
            raise AssertionError(f"no server: {self.events}")
        self.url = self.events[-1]["url"]
        self._rest: list[str] = []  # read as it comes, or the server would wait
        self._reading = threading.Thread(target=lambda: self._rest.extend(self.process.stderr))
        self._reading.start()
        self.port = int(self.url.rpartition(":")[2])

    def end(self, number=15):
        """Sends a signal; returns the exit code and the rest of the log."""
        self.process.send_signal(number)
        self.process.wait(60)
        self._reading.join(10)
        return self.process.returncode, "".join(self._rest)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reading.join(10)
        self.process.stderr.close()


class Load:
    """Threads that ask a network again and again until `stop`; what they were answered."""

    def __init__(self, port, body, clients=8, name="dense"):
        self.port, self.body, self.path = port, body, f"/v2/models/{name}/infer"
        self.answers, self.failures, self.stopped = [], [], False
        self.threads = [threading.Thread(target=self._ask) for _ in range(clients)]
        for thread in self.threads:
            thread.start()

    def _ask(self):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.stopped:
            try:
                connection.request("POST", self.path, self.body)
            except OSError as error:  # refused, or before it was sent
                if self.stopped or isinstance(error, ConnectionRefusedError):
                    return
                self.failures.append(repr(error))
                return
            try:
                answer = connection.getresponse()
                status, text = answer.status, answer.read()
                self.answers.append(json.loads(text)["outputs"][0]["data"])
                assert status == 200
                if answer.will_close:
                    return
            except Exception as error:
                self.failures.append(repr(error))
                return

    def stop(self):
        self.stopped = True
        for thread in self.threads:
            thread.join(30)


def expected(model, images):
    """Returns what a Model gives for normalised images."""
    return np.asarray(jax.jit(model.apply)(model.params, images))
