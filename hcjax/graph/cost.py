"""`cost`: MACs, parameters and bytes of each layer of a Model."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hcjax.core import text
from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import LAYERS, Model, Op, layer_of
from hcjax.graph.qtensor import QTensor, dequantize


class LayerCost(NamedTuple):
    """One layer: an op with MACs or parameters.

    name: of its parameters, or its kind. shape: of its output for one image. macs: products that
    are added up, for one image. parameters: numbers that it is the first to read. weight_bytes:
    theirs. activation_bytes: of its output, for one image.
    """

    name: str
    kind: str
    shape: tuple[int, ...]
    macs: int
    parameters: int
    weight_bytes: int
    activation_bytes: int
    source: str


class Cost(NamedTuple):
    """The rows of a Model, in order; printed as a table."""

    rows: tuple[LayerCost, ...]

    @property
    def macs(self) -> int:
        """Products that are added up, for one image."""
        return sum(row.macs for row in self.rows)

    @property
    def parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(row.weight_bytes for row in self.rows)

    def __str__(self) -> str:
        header = ("layer", "op", "output", "MACs", "parameters", "weight bytes", "activation bytes")
        lines = [header]
        lines += [(*row[:2], str(row.shape), *row[3:7]) for row in self.rows]
        lines.append(("all", "", "", self.macs, self.parameters, self.weight_bytes, ""))
        return text.aligned(lines, [False] * 3 + [True] * 4)


def cost(model: Model) -> Cost:
    """Returns MACs, parameters and bytes of each layer of a Model.

    MACs of a convolution: output pixels · output channels · kernel pixels · input channels of a
    group; of a dense layer: outputs · inputs. Everything else counts as 0.

    Args:
      model: from `trace` or any transform.

    Returns:
      Cost; print it for a table.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax.graph.tracing.trace import trace
      >>> model = trace(lambda p, x: x @ p["w"] + p["b"], {"w": jnp.ones((4, 3)), "b": jnp.ones(3)},
      ...               jnp.ones((1, 4)))
      >>> cost(model).macs, cost(model).parameters, cost(model).weight_bytes
      (12, 15, 60)
    """
    leaves = model.leaves(model.params)
    # parameters that a number is computed from, until an op that reads images takes them
    behind = {number: {path} for path, number in model.graph.params.items()}
    images, rows, counted = {model.graph.images}, [], set()
    for op in model.graph.ops:
        read = set().union(*(behind.get(i, set()) for i in op.inputs))
        if not images.intersection(op.inputs):
            for output in op.outputs:
                behind[output] = read
            continue
        images.update(op.outputs)
        new = sorted(read - counted)
        counted.update(new)
        if op.macs or new:
            rows.append(
                LayerCost(
                    _name(sorted(read), op),
                    op.kind,
                    op.sizes(1)[1:],
                    op.macs,
                    sum(leaves[p].size for p in new),
                    sum(leaves[p].nbytes for p in new),
                    math.prod(op.sizes(1)) * np.dtype(op.dtype).itemsize,
                    op.source,
                )
            )
    return Cost(tuple(rows))


def kernels(model: Model) -> tuple[int, int, int]:
    """Returns how many numbers are in a model's kernels, how many are not 0, and their MACs.

    A weight is one product for every place that its kernel is put to, so the MACs of a layer by
    weights that are not 0 are its MACs · nonzeros / weights.

    Args:
      model: of any transform; kernels that are expressions of parameters are evaluated.

    Returns:
      (weights, nonzeros, MACs of nonzeros). A kernel that several layers share counts once, in
      MACs with each. A product of two activations counts all its MACs.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> w = {"w": np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]], np.float32), "b": np.ones(2)}
      >>> kernels(trace(lambda p, x: x @ p["w"] + p["b"], w, np.ones((1, 3), np.float32)))
      (6, 2, 2)
    """
    ops, values, _ = evaluate_constants(model)
    found: dict[int, tuple[int, int]] = {}
    macs = 0
    for op in ops:
        kernel = next((i for i in op.inputs if i in values), None) if op.kind in LAYERS else None
        if kernel is None:
            macs += op.macs
            continue
        if kernel not in found:
            value = values[kernel]
            value = np.asarray(dequantize(value) if isinstance(value, QTensor) else value)
            found[kernel] = value.size, int(np.count_nonzero(value))
        size, nonzeros = found[kernel]
        macs += op.macs * nonzeros // max(size, 1)
    return sum(n for n, _ in found.values()), sum(n for _, n in found.values()), macs


def _name(paths: list[str], op: Op) -> str:
    """Returns a layer's name: the folder of its parameters, or its kind."""
    parts = {layer_of(path) for path in paths}
    return parts.pop() if len(parts) == 1 else paths[0] if paths else op.kind
