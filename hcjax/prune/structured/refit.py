"""`refit`: after channels are removed, fits each layer to the outputs that it had before."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph import interface
from hcjax.graph.model import LAYERS, Model, Op, consumers, environment
from hcjax.graph.ops.kind import LayerAxes
from hcjax.graph.ops.table import KINDS
from hcjax.prune.structured.importance import arrays_of

_CHUNK = 64  # images at a time
_ROWS = 2**15  # at a time, in float64


def refit(small: Model, model: Model, images: Any, *, ridge: float = 1e-3) -> Model:
    """Fits the layers of a shrunk network, one after the other, to the outputs of the original.

    For each layer, with X what it now reads, as rows of the numbers that one kernel column
    multiplies, and Y what it computed in the original network, at the output channels that are
    left, the new kernel, and bias if it has one, is

        W = W₀ + argmin_D ‖X (W₀ + D) - Y‖² + λ ‖D‖²,  λ = ridge · mean diag(XᵀX).

    The removed channels' part of Y that the others can express comes back, without any training.

    Args:
      small: of `shrink`.
      model: the network that it was shrunk from.
      images: [N, ...] as the network takes them, or a tuple of all inputs, of its training set;
        some hundred are enough.
      ridge: > 0; larger stays nearer to the kernels as they are.

    Returns:
      Model like `small`, with other kernels and biases. Grouped and depthwise layers, and kernels
      that are computed from parameters or shared by layers, are left as they are.

    Raises:
      TypeError: if one of the networks is no Model.
      ConfigError: if the networks' ops differ, the images are not theirs, or ridge is out of range.

    Reference:
      He et al., "Channel Pruning for Accelerating Very Deep Neural Networks", 2017,
      arXiv:1707.06168, section 3.1, eq. 5: the error of the original's outputs, after layers before
      were pruned too. Deviations: ridge, around the present kernel; all layers of the network.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> from hcjax.prune.structured.shrink import shrink
      >>> params = {"a": jnp.array([[1.0, 2.0, 0.1]]), "b": jnp.ones((3, 2))}
      >>> model = trace(lambda p, x: x @ p["a"] @ p["b"], params, jnp.ones((1, 1)))
      >>> images = jnp.array([[1.0], [-2.0]])
      >>> small = shrink(model, keep=0.34, images=images)
      >>> for m in (model, small, refit(small, model, images)):
      ...     print(np.round(m.apply(m.params, images)[0], 2))
      [3.1 3.1]
      [2.1 2.1]
      [3.1 3.1]
    """
    for each in (small, model):
        if not isinstance(each, Model):
            raise TypeError(f"expected a Model, got {type(each).__name__}")
    if not ridge > 0:
        raise ConfigError(f"ridge must be > 0, got {ridge!r}")
    before = {op.output: op for op in model.graph.ops}
    if [op.output for op in small.graph.ops] != list(before):
        raise ConfigError("the small network must be one that was shrunk from the other")
    chunks = interface.batches(model.inputs, arrays_of(model, images), _CHUNK)
    kept = {(c.path, c.axis): c.kept for c in small.cut[len(model.cut) :]}
    paths = {number: path for path, number in small.graph.params.items()}
    readers = consumers(small.graph.ops)
    params = small.leaves(small.params)
    ours = [_Run(small, chunk) for chunk in chunks]
    theirs = [_Run(model, chunk) for chunk in chunks]
    for op in small.graph.ops:
        for run in theirs:
            run.step(before[op.output])
        own = {i: params[paths[i]] for i in op.inputs if i in paths and len(readers[i]) == 1}
        if (layer := _layer(op, own)) is not None:
            (x, kernel, *_), axes = layer
            indices = kept.get((paths[kernel], axes.outputs))
            targets = [_rows(run.env[op.output], axes.channels, indices) for run in theirs]
            inputs = [(run.batch, run.env[x]) for run in ours]
            fitted = _fit(op, own, *layer, inputs, targets, ridge)
            for number, array in fitted.items():
                params[paths[number]] = array
                for run in ours:
                    run.env[number] = array
        for run in ours:
            run.step(op)
    return small.replace(params={path: params[path] for path in small.params})


class _Run:
    """A network on its way through its ops; values that no later op reads are dropped."""

    def __init__(self, model: Model, arrays: Sequence[Any]):
        self.env, self.batch = environment(model.graph, model.leaves(model.params), arrays)
        self._last: dict[int, int] = {}
        for op in model.graph.ops:
            self._last |= dict.fromkeys(op.inputs, op.output)

    def step(self, op: Op) -> None:
        """Runs the next op."""
        results = op.run(self.batch, *(self.env[i] for i in op.inputs))
        for i in set(op.inputs):
            if self._last[i] == op.output:
                del self.env[i]
        self.env |= zip(op.outputs, results, strict=True)


def _layer(op: Op, own: dict[int, Any]) -> tuple[tuple[int, ...], LayerAxes] | None:
    """Returns (numbers of operand, kernel and, if any, bias; axes) of a layer that can be fitted.

    Args:
      op: any op. own: number -> array of the parameters that it alone reads.
    """
    grouped = op.params.get("feature_group_count", 1) * op.params.get("batch_group_count", 1) > 1
    if op.kind not in LAYERS or grouped or not own:
        return None
    first, second, *bias = op.inputs
    side = 1 if second in own else 0
    x, kernel = (first, second) if side else (second, first)
    if kernel not in own or x in own or any(i not in own for i in bias):
        return None
    axes = KINDS[op.kind].layer(op, side, np.ndim(own[kernel]))
    whole = len(axes.order) == np.ndim(own[kernel])  # no axis is one of a batch of products
    return ((x, kernel, *bias), axes) if whole and axes.channels is not None else None


def _rows(x: jax.Array, axis: int, indices: Any = None) -> np.ndarray:
    """Returns an array as rows of the numbers along an axis, at some indices of it."""
    rows = np.moveaxis(np.asarray(x), axis, -1)
    rows = rows.reshape(-1, rows.shape[-1])
    return rows if indices is None else rows[:, list(indices)]


def _fit(
    op: Op,
    own: dict[int, Any],
    numbers: tuple[int, ...],
    axes: LayerAxes,
    inputs: list[tuple[int, jax.Array]],
    targets: list[np.ndarray],
    ridge: float,
) -> dict[int, jax.Array]:
    """Solves the least squares of one layer; returns number -> array of its kernel and bias.

    Args:
      op, own, numbers, axes: see `_layer`.
      inputs: (size of the batch, what it reads) of each chunk of examples.
      targets: float[rows, outputs] of each, what it should compute.
      ridge: see `refit`.
    """
    x, kernel, *bias = numbers
    moved = np.moveaxis(np.asarray(own[kernel], np.float64), axes.outputs, -1)
    present = moved.reshape(-1, moved.shape[-1])  # [P, outputs]
    count = len(present)
    # a kernel that hands each number that a column multiplies to an output of its own
    identity = np.eye(count, dtype=np.float32).reshape(*moved.shape[:-1], count)
    operands = {kernel: np.moveaxis(identity, -1, axes.outputs)}
    operands |= dict.fromkeys(bias, np.zeros(count, np.float32))
    if bias:
        present = np.concatenate([present, np.asarray(own[bias[0]], np.float64)[None]])
    gram, cross = 0.0, 0.0
    for (batch, value), target in zip(inputs, targets, strict=True):
        result = op.run_one(batch, *((operands | {x: value})[i] for i in op.inputs))
        rows = _rows(result, axes.channels)
        for start in range(0, len(rows), _ROWS):
            part = np.float64(rows[start : start + _ROWS])
            if bias:
                part = np.concatenate([part, np.ones((len(part), 1))], 1)
            gram += part.T @ part
            cross += part.T @ (target[start : start + _ROWS] - part @ present)
    strength = ridge * np.trace(gram) / len(gram) + np.finfo(np.float64).tiny
    new = present + np.linalg.solve(gram + strength * np.eye(len(gram)), cross)
    arrays = {kernel: np.moveaxis(new[:count].reshape(moved.shape), -1, axes.outputs)}
    arrays |= {number: new[count] for number in bias}
    return {number: jnp.asarray(array, own[number].dtype) for number, array in arrays.items()}
