"""What runs the artifacts of an export, each in a program of its own kind: a literal dict.

In: a file of a folder. Out: an `Engine`, a function of flat arrays, and how long its calls take.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.core import brief, optional
from hcjax.errors import ArtifactError, PlatformError
from hcjax.export import examples, fresh, manifest, weights
from hcjax.export.hcz import interfaces, unpack
from hcjax.graph.model import Model
from hcjax.version import VERSION

_PATIENCE = 10  # seconds for a process to end when it is told to
Arrays = Sequence[np.ndarray]


class Engine(NamedTuple):
    """A network that something runs.

    name: of what runs it, with its version. run: flat inputs -> flat outputs. seconds: `(flat
    inputs, number of calls) -> seconds of each`. close: ends it.
    """

    name: str
    run: Callable[[Arrays], list[np.ndarray]]
    seconds: Callable[[Arrays, int], np.ndarray]
    close: Callable[[], Any] = lambda: None

    __repr__ = brief.record


# of (folder, manifest, entry of the artifact in it); None where a file is only read
Runtime = Callable[[Path, dict[str, Any], dict[str, Any]], Engine | None]


def here(name: str, run: Callable[[Arrays], list[np.ndarray]], **more: Any) -> Engine:
    """Returns an engine of this process, whose calls are timed from outside.

    Args:
      name, run, **more: see `Engine`.

    Example:
      >>> engine = here("twice", lambda arrays: [2 * x for x in arrays])
      >>> engine.run([np.ones(2)])[0].tolist(), len(engine.seconds([np.ones(2)], 3))
      ([2.0, 2.0], 3)
    """

    def seconds(arrays: Arrays, calls: int) -> np.ndarray:
        found = []
        for _ in range(calls):
            started = time.perf_counter()
            run(arrays)
            found.append(time.perf_counter() - started)
        return np.array(found)

    return Engine(name, run, seconds, **more)


def _stablehlo(folder: Path, facts: dict, entry: dict) -> Engine:
    """Runs StableHLO in a fresh process that imports jax alone, on its CPU."""
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    environment.pop("PYTHONPATH", None)
    process = subprocess.Popen(
        # -P: the modules beside the script are not those that jax imports by such names
        [sys.executable, "-P", fresh.__file__, str((folder / entry["file"]).resolve())],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment,
    )  # fmt: skip

    def ask(**request: np.ndarray) -> dict[str, np.ndarray]:
        with suppress(BrokenPipeError):
            fresh.send(process.stdin, request)
        if (answer := fresh.receive(process.stdout)) is None:
            lines = process.stderr.read().decode(errors="replace").strip().splitlines() or ["?"]
            raise ArtifactError(f"jax cannot run it: {lines[-1]:.300}")
        return answer

    def run(arrays: Arrays) -> list[np.ndarray]:
        answer = ask(**fresh.numbered(arrays))
        dtypes = manifest.dtypes(facts)[1].values()
        return [answer[str(i)].view(jnp.dtype(dtype)) for i, dtype in enumerate(dtypes)]

    def seconds(arrays: Arrays, calls: int) -> np.ndarray:
        return ask(calls=np.array(calls), **fresh.numbered(arrays))["seconds"]

    def close() -> None:
        process.stdin.close()
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close(), process.stderr.close()

    return Engine(f"jax {jax.__version__}", run, seconds, close)


def _onnx(folder: Path, facts: dict, entry: dict) -> Engine:
    """Runs ONNX by ONNX Runtime, on one thread."""
    library = optional.module("onnxruntime", extra="test", what=entry["file"])
    options = library.SessionOptions()
    options.intra_op_num_threads = 1
    try:
        session = library.InferenceSession(
            str(folder / entry["file"]), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # its errors have no base of their own
        raise ArtifactError(f"ONNX Runtime cannot open it: {error!s:.300}") from error
    names = [each.name for each in session.get_inputs()]

    def run(arrays: Arrays) -> list[np.ndarray]:
        return session.run(None, dict(zip(names, arrays, strict=True)))

    return here(f"onnxruntime {library.__version__}", run)


def _c(folder: Path, facts: dict, entry: dict) -> Engine:
    """Compiles C with this machine's compiler, and calls it."""
    from hcjax.export.c.engine import built

    files = {name: (folder / name).read_text() for name in ("network.c", "network.h")}
    inputs, outputs = (manifest.leaves(facts, key) for key in ("inputs", "outputs"))
    try:
        made = built(files, tuple(inputs), outputs)
    except PlatformError as error:
        raise ArtifactError(str(error)) from error
    return here("C, compiled here", made.run)


def _safetensors(folder: Path, facts: dict, entry: dict) -> Engine | None:
    """Reads weights, and runs them in the graph of `network.hcz` if that is there, and whole."""
    data = (folder / entry["file"]).read_bytes()
    weights.arrays(data)
    try:
        graph = next(each["file"] for each in facts["artifacts"] if each["runtime"] == "hcz")
        manifest.content(folder, facts, graph)
    except (StopIteration, ArtifactError):  # what is wrong with that file is said in its own row
        return None
    model = weights.restored(_unpacked(folder, graph), data)
    return here(f"safetensors, in {graph}", partial(_run, jitted(model)))


def _hcz(folder: Path, facts: dict, entry: dict) -> Engine:
    """Unpacks a `.hcz` file, and runs it by jax here."""
    return here(
        f"hcjax {VERSION}",
        partial(_run, jitted(_unpacked(folder, entry["file"]))),
    )


# another runtime is a function and a line
RUNTIMES: dict[str, Runtime] = {
    "c": _c,
    "onnx": _onnx,
    "stablehlo": _stablehlo,
    "safetensors": _safetensors,
    "hcz": _hcz,
}


def jitted(model: Model) -> Callable[[Arrays], list[jax.Array]]:
    """Returns a network as a compiled function of flat arrays."""
    leaves = model.leaves(model.params)
    call = jax.jit(model.compute)
    return lambda arrays: jax.tree.leaves(call(leaves, list(arrays)))


def _run(call: Callable, arrays: Arrays) -> list[np.ndarray]:
    with examples.on_cpu():
        return [np.asarray(x) for x in call(arrays)]


def _unpacked(folder: Path, name: str) -> Model:
    return interfaces.plain(unpack((folder / name).read_bytes()))
