"""`engine(model)`: a network's C program, compiled for this machine and called from Python."""

from __future__ import annotations

import ctypes
import math
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import jax
import numpy as np

from hcjax.errors import PlatformError
from hcjax.export.c.source import c
from hcjax.graph import interface
from hcjax.graph.model import Model
from hcjax.native import build

FLAGS = ("-std=c11", "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-x", "c")


class Engine:
    """A network's own program for a CPU; safe to call from several threads.

    inputs, outputs: trees of `Leaf`, as of a Model.
    """

    def __init__(self, inputs: Any, outputs: Any, library: Path, name: str, threads: int):
        self.inputs, self.outputs = inputs, outputs
        self._library = ctypes.CDLL(str(library))
        self._batch = getattr(self._library, f"{name}_batch")
        self._batch.restype = None
        self._size = ctypes.c_size_t.in_dll(self._library, f"{name}_context_size").value
        self._own = threading.local()
        self._pool = ThreadPoolExecutor(threads) if threads > 1 else None
        self._threads = threads

    def run(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Computes the flat outputs of a batch from its flat inputs.

        Args:
          arrays: as `jax.tree.leaves` of the inputs, [N, ...] where they have examples.

        Raises:
          ValueError: if they are not the network's.
        """
        arguments = jax.tree.unflatten(jax.tree.structure(self.inputs), list(arrays))
        flat = interface.flatten(self.inputs, arguments)
        leaves = jax.tree.leaves(self.inputs)
        given = [np.ascontiguousarray(x, leaf.dtype) for x, leaf in zip(flat, leaves, strict=True)]
        count = interface.count(self.inputs, given)
        results = [
            np.empty(((count,) if leaf.batched else ()) + leaf.shape, leaf.dtype)
            for leaf in jax.tree.leaves(self.outputs)
        ]
        size = math.ceil(count / self._threads)
        parts = [(i, min(size, count - i)) for i in range(0, count, max(size, 1))]
        if self._pool is None or len(parts) < 2:
            for part in parts:
                self._call(given, results, *part)
        else:
            list(self._pool.map(lambda part: self._call(given, results, *part), parts))
        return results

    def __call__(self, *inputs: Any) -> Any:
        """Computes the tree of outputs, as `Model.apply` without parameters."""
        results = self.run(interface.flatten(self.inputs, inputs))
        return jax.tree.unflatten(jax.tree.structure(self.outputs), results)

    def _call(self, given: list, results: list, first: int, count: int) -> None:
        """Computes `count` examples from the first; ctypes lets other threads run meanwhile."""
        if not hasattr(self._own, "context"):
            self._own.context = ctypes.create_string_buffer(self._size)
        pointers = [ctypes.cast(self._own.context, ctypes.c_void_p)]
        leaves = (*jax.tree.leaves(self.inputs), *jax.tree.leaves(self.outputs))
        for array, leaf in zip((*given, *results), leaves, strict=True):
            start = first * math.prod(leaf.shape) * array.itemsize if leaf.batched else 0
            pointers.append(ctypes.c_void_p(array.ctypes.data + start))
        self._batch(*pointers, ctypes.c_size_t(count))


def engine(model: Model, *, threads: int = 1, flags: Sequence[str] = ("-march=native",)) -> Engine:
    """Returns a network's C program, compiled for this machine; the outputs are NumPy arrays.

    Args:
      model: as of `c`.
      threads: among which a batch is divided.
      flags: of the compiler, for the processor; () for plain C.

    Raises:
      ConfigError: as `c`.
      PlatformError: if there is no C compiler, or it fails.

    Note:
      The program is built once, and kept under a hash of its source, the flags and the processor.
    """
    return built(c(model).files, model.inputs, model.outputs, threads=threads, flags=flags)


def built(
    files: Mapping[str, str],
    inputs: Any,
    outputs: Any,
    *,
    name: str = "network",
    threads: int = 1,
    flags: Sequence[str] = ("-march=native",),
) -> Engine:
    """Returns the program that the files of `c` are, compiled for this machine.

    Args:
      files: name -> text. inputs, outputs: trees of `Leaf`, of the Model that was written.
      name: that was given to `c`. threads, flags: see `engine`.

    Raises:
      PlatformError: if there is no C compiler, or it fails.
    """
    with tempfile.TemporaryDirectory(prefix="hcjax-c-") as folder:
        for file, text in files.items():
            (Path(folder) / file).write_text(text)
        sources = [Path(folder) / file for file in sorted(files)]
        try:
            library = build.library(sources, flags=(*FLAGS, *flags), own=True)
        except build.BuildError as error:
            raise PlatformError(f"the network's C program cannot be built: {error}") from error
    return Engine(inputs, outputs, library, name, threads)
