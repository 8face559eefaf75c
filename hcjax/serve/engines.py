"""What computes a network: jax, the C of `hcjax.export`, or ONNX Runtime, behind one protocol.

An engine has `inputs` and `outputs`, trees of `Leaf` as a Model's, and `run(arrays) -> arrays`, of
a batch of any size from 1 to what it was made for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Protocol

import jax
import numpy as np

from hcjax.accelerate import compiler
from hcjax.core import optional
from hcjax.errors import ConfigError, HcjaxError, unknown_name
from hcjax.graph import interface
from hcjax.graph.model import Model


class Engine(Protocol):
    """What computes a network."""

    inputs: Any
    outputs: Any

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Computes the outputs of a batch."""


class JaxEngine:
    """A network compiled by jax, once for each of a few sizes of batch; smaller ones are filled up.

    Args:
      model: the network. batch: the greatest size. tuned: whether to try several ways of compiling
        and to keep the fastest, or to compile as `fit` does.
    """

    def __init__(self, model: Model, batch: int, *, tuned: bool = True):
        self.inputs, self.outputs = model.inputs, model.outputs
        self._sizes, self._calls = sizes(batch), {}
        for size in self._sizes:
            arrays = zeros(model.inputs, size)

            def apply(*arrays):
                arguments = jax.tree.unflatten(jax.tree.structure(model.inputs), arrays)
                return jax.tree.leaves(model.apply(model.params, *arguments))

            call = compiler.tune(apply, *arrays, seconds=0.05) if tuned else compiler.jit(apply)
            jax.block_until_ready(call(*arrays))
            self._calls[size] = call

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Computes the outputs of a batch of at most the greatest size."""
        rows = interface.count(self.inputs, arrays)
        size = next(size for size in self._sizes if size >= rows)
        if size > rows:
            arrays = [
                np.concatenate([x, np.repeat(x[:1], size - rows, 0)]) if leaf.batched else x
                for leaf, x in zip(jax.tree.leaves(self.inputs), arrays, strict=True)
            ]
        results = self._calls[size](*arrays)
        return [
            np.asarray(y)[:rows] if leaf.batched else np.asarray(y)
            for leaf, y in zip(jax.tree.leaves(self.outputs), results, strict=True)
        ]


class OnnxEngine:
    """A network as ONNX, computed by ONNX Runtime in one thread; integers exactly."""

    def __init__(self, model: Model):
        runtime = optional.module("onnxruntime", extra="onnx", what="the engine onnxruntime")
        from hcjax.export.onnx.export import onnx

        self.inputs, self.outputs = model.inputs, model.outputs
        options = runtime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        content = onnx(model, form="exact" if integers(model) else "float")
        providers = ["CPUExecutionProvider"]
        self._session = runtime.InferenceSession(content, options, providers=providers)
        self._names = [value.name for value in self._session.get_inputs()]

    def run(self, arrays: list[np.ndarray]) -> list[np.ndarray]:
        """Computes the outputs of a batch."""
        return self._session.run(None, dict(zip(self._names, arrays, strict=True)))


def _c(model: Model, batch: int) -> Engine:
    from hcjax.export.c.engine import engine

    return engine(model)


# name -> function of (model, greatest batch)
ENGINES: dict[str, Callable[[Model, int], Engine]] = {
    "jax": JaxEngine,
    "jit": lambda model, batch: JaxEngine(model, batch, tuned=False),
    "c": _c,
    "onnxruntime": lambda model, batch: OnnxEngine(model),
}


def make_engine(model: Model, name: str, batch: int) -> tuple[str, Engine]:
    """Returns an engine that has run once with the least and the greatest batch, and its name.

    Args:
      model: the network. name: in `ENGINES`, or "auto": C for a network of integers, where there
        is a compiler and C has a form of all of it; else jax, whose floats are faster. batch: the
        greatest size.

    Raises:
      ConfigError: if there is no such engine, or it cannot compute this network.
    """
    if name == "auto":
        if integers(model):
            with suppress(HcjaxError):  # without a compiler, or of an op that C has no form of
                return "c", _warmed(ENGINES["c"](model, batch), batch)
        name = "jax"
    if name not in ENGINES:
        raise ConfigError(unknown_name("engine", name, ["auto", *ENGINES]))
    try:
        return name, _warmed(ENGINES[name](model, batch), batch)
    except ModuleNotFoundError as error:
        raise ConfigError(f"the engine {name} needs {error.name}, which is not there") from error


def integers(model: Model) -> bool:
    """Returns whether a network computes on integers, wholly or in part."""
    kinds = {op.kind for op in model.graph.ops}
    return bool(kinds & {"quantize", "requantize", "look_up"})


def sizes(batch: int) -> list[int]:
    """Returns the sizes of batch that programs are compiled for.

    Example:
      >>> sizes(64), sizes(20)
      ([1, 4, 16, 64], [1, 4, 16, 20])
    """
    return [4**i for i in range(16) if 4**i < batch] + [batch]


def zeros(inputs: Any, rows: int) -> list[np.ndarray]:
    """Returns arrays of zeros that a network takes."""
    return [np.zeros(leaf.sizes(rows), leaf.dtype) for leaf in jax.tree.leaves(inputs)]


def _warmed(engine: Engine, batch: int) -> Engine:
    for rows in sizes(batch):
        given: Sequence[np.ndarray] = engine.run(zeros(engine.inputs, rows))
        leaves = jax.tree.leaves(engine.outputs)
        found = [np.shape(y) for y in given]
        expected = [leaf.sizes(rows) for leaf in leaves]
        if found != expected:
            raise ConfigError(f"the engine gives {found}, the network {expected}")
    return engine
