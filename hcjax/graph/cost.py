"""`cost`: MACs, parameters and bytes of each layer of a Model."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from hcjax.core import notebook, text
from hcjax.graph.constants import evaluate_constants, is_table
from hcjax.graph.model import LAYERS, Model, Op, layer_of
from hcjax.graph.qtensor import QTensor, dequantize


class LayerCost(NamedTuple):
    """One layer: an op with MACs or parameters.

    name: the folder of its parameters, or its kind. shape: of its output for one image. macs:
    multiply-accumulates for one image. parameters: count of the numbers that it is the first to
    read. weight_bytes: their bytes. activation_bytes: bytes of its output for one image.
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

    _repr_html_ = notebook.to_html
    to_csv = notebook.to_csv
    to_latex = notebook.to_latex

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one image."""
        return sum(row.macs for row in self.rows)

    @property
    def parameters(self) -> int:
        """Numbers in all parameters."""
        return sum(row.parameters for row in self.rows)

    @property
    def weight_bytes(self) -> int:
        """Bytes of all parameters."""
        return sum(row.weight_bytes for row in self.rows)

    @property
    def grid(self) -> notebook.Grid:
        """The rows and their sums, for people and files."""
        head = ("layer", "op", "output", "MACs", "parameters", "weight bytes", "activation bytes")
        rows = [(*row[:2], str(row.shape), *row[3:7]) for row in self.rows]
        rows.append(("all", "", "", self.macs, self.parameters, self.weight_bytes, ""))
        return notebook.Grid(head, rows)

    def __repr__(self) -> str:
        return text.aligned([self.grid.head, *self.grid.rows], [False] * 3 + [True] * 4)


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
    # number -> paths of the parameters it is computed from, of numbers without images
    sources = {number: {path} for path, number in model.graph.params.items()}
    images, rows, previous_paths = set(model.graph.inputs), [], set()
    for op in model.graph.ops:
        paths = set().union(*(sources.get(i, set()) for i in op.inputs))
        if not images.intersection(op.inputs):
            for output in op.outputs:
                sources[output] = paths
            continue
        images.update(op.outputs)
        new_paths = sorted(paths - previous_paths)
        previous_paths.update(new_paths)
        if op.macs or new_paths:
            rows.append(
                LayerCost(
                    _name_layer(sorted(paths), op),
                    op.kind,
                    op.sizes(1)[1:],
                    op.macs,
                    sum(leaves[p].size for p in new_paths),
                    sum(leaves[p].nbytes for p in new_paths),
                    math.prod(op.sizes(1)) * np.dtype(op.dtype).itemsize,
                    op.source,
                )
            )
    return Cost(tuple(rows))


def kernels(model: Model) -> tuple[int, int, int]:
    """Counts the weights of a model's kernels, the nonzeros among them, and their MACs.

    A table of embeddings is a kernel of no MACs.

    Each weight of a kernel takes part in equally many products, so the nonzero weights of a layer
    take its MACs · nonzeros / weights.

    Args:
      model: from any transform; kernels that are expressions of parameters are evaluated.

    Returns:
      (weights, nonzeros, MACs of nonzeros). The weights of a kernel that several layers share
      count once, its MACs with each layer. A product of two activations counts all its MACs.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> w = {"w": np.array([[1.0, 0.0], [0.0, 0.0], [2.0, 0.0]], np.float32), "b": np.ones(2)}
      >>> kernels(trace(lambda p, x: x @ p["w"] + p["b"], w, np.ones((1, 3), np.float32)))
      (6, 2, 2)
    """
    ops, values, _ = evaluate_constants(model)
    counts: dict[int, tuple[int, int]] = {}
    macs = 0
    for op in ops:
        reads = op.kind in LAYERS or is_table(op, values)
        kernel = next((i for i in op.inputs if i in values), None) if reads else None
        if kernel is None:
            macs += op.macs
            continue
        if kernel not in counts:
            value = values[kernel]
            value = np.asarray(dequantize(value) if isinstance(value, QTensor) else value)
            counts[kernel] = value.size, int(np.count_nonzero(value))
        size, nonzeros = counts[kernel]
        macs += op.macs * nonzeros // max(size, 1)
    return sum(n for n, _ in counts.values()), sum(n for _, n in counts.values()), macs


def _name_layer(paths: list[str], op: Op) -> str:
    """Returns a layer's name: the folder of its parameters, or its kind."""
    parts = {layer_of(path) for path in paths}
    return parts.pop() if len(parts) == 1 else paths[0] if paths else op.kind
