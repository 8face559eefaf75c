"""`sensitivity`: accuracy against sparsity, or bits, of one layer at a time.

In: a Model, and images with labels of the validation set. Out: a table, from which `pick` chooses
each layer's level. The network is compiled once: the layer and its level are arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from jax import lax

from hcjax import metrics, trees
from hcjax.accelerate.accelerate import accelerate
from hcjax.core import registry, text
from hcjax.errors import ConfigError
from hcjax.graph import examples, qtensor
from hcjax.graph.axes import kernel_axis
from hcjax.graph.constants import source_path, trained_numbers
from hcjax.graph.model import LAYERS, Model, layer_of
from hcjax.search.levels import CHANGES, Change


class KernelSensitivity(NamedTuple):
    """One kernel: its size, and the network's accuracy when this kernel alone is compressed.

    Attributes:
      path: of the parameter.
      layer: name of its layer.
      size: number of its weights.
      macs: of its layers, for one image.
      accuracy, nll: of the network, at each level, over all images.
    """

    path: str
    layer: str
    size: int
    macs: int
    accuracy: tuple[float, ...]
    nll: tuple[float, ...]


class Sensitivity(NamedTuple):
    """The result of `sensitivity`; prints as a table of accuracies in percent.

    Attributes:
      against: kind of the levels, a key of `CHANGES`.
      levels: from the mildest on.
      rows: one for each kernel.
      accuracy, nll: of the network without compression.
      measure: (one level for each row, 0 for no change) -> (accuracy, nll) of the network with all
        kernels compressed together.
    """

    against: str
    levels: tuple[float, ...]
    rows: tuple[KernelSensitivity, ...]
    accuracy: float
    nll: float
    measure: Callable[[Sequence[float]], tuple[float, float]]

    def __repr__(self) -> str:
        columns = [
            f"{self.against} {self.levels[0]:g}",
            *(f"{level:g}" for level in self.levels[1:]),
        ]
        lines = [("kernel", "weights", "MACs", *columns)]
        for row in self.rows:
            lines.append((row.path, row.size, row.macs, *(f"{100 * a:.2f}" for a in row.accuracy)))
        return f"accuracy {100 * self.accuracy:.2f} %\n{text.aligned(lines)}"


def sensitivity(
    model: Model,
    images: Any,
    labels: Any,
    *,
    against: str = "sparsity",
    levels: Sequence[float] | None = None,
    select: trees.Select | str | Sequence[str] = trees.kernels,
    batch_size: int = 1000,
) -> Sensitivity:
    """Measures a network's accuracy with one kernel at a time pruned, or rounded to integers.

    Args:
      model: from `trace`, best through `fold`.
      images: float array [N, ...], normalised as in training. Use the validation set: a choice
        made on the test set makes its accuracy meaningless.
      labels: int[N], each in [0, K).
      against: "sparsity": the fraction of the kernel's weights, those of least magnitude, that is
        set to zero. "bits": the kernel is rounded to symmetric integers of so many bits, with one
        scale per output channel; activations stay in float.
      levels: sparsities in [0, 1), or bits in 2..8, from the mildest on. None: ten sparsities up to
        0.995, or 8 to 2 bits.
      select: which kernels, as of `prune.masks`.
      batch_size: images at a time, >= 1.

    Returns:
      Sensitivity; print it, or give it to `pick`. `hcjax.report.plots.layer_curves` draws it.

    Raises:
      ConfigError: if an argument is out of range, or the model is quantized already.

    Note:
      Costs 1 + kernels · levels passes over the images, and one compilation.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import trace
      >>> images = jnp.array([[3.0, 0.0], [0.0, 1.0]])
      >>> params = {"w": jnp.array([[1.0, 0.0], [0.0, 0.2]])}
      >>> model = trace(lambda params, x: x @ params["w"], params, images)
      >>> print(sensitivity(model, images, jnp.array([0, 1]), levels=(0.5, 0.75)))
      accuracy 100.00 %
      kernel  weights  MACs  sparsity 0.5    0.75
      w             4     4        100.00   50.00
    """
    change = registry.choose("change", CHANGES, against)
    levels = tuple(change.levels if levels is None else levels)
    images, labels = examples.labelled(model, images, labels, batch_size)
    kernels = _kernels(model, select)
    _check(change, against, levels, kernels)
    measure = _measure(model, images, labels, kernels, change, min(batch_size, len(images)))
    accuracy, nll = measure([0] * len(kernels))
    rows = []
    for i, (path, _, macs) in enumerate(kernels):
        pairs = [measure([0] * i + [a] + [0] * (len(kernels) - i - 1)) for a in levels]
        size = model.leaves(model.params)[path].size
        rows.append(KernelSensitivity(path, layer_of(path), size, macs, *zip(*pairs, strict=True)))
    return Sensitivity(against, levels, tuple(rows), accuracy, nll, measure)


def _kernels(model: Model, select: Any) -> list[tuple[str, int | None, int]]:
    """Lists (path, axis of the output channels, MACs) of each kernel that a layer reads.

    The axis is None where the layer reads a value computed from the parameter.
    """
    leaves = model.leaves(model.params)
    if any(isinstance(leaf, qtensor.QTensor) for leaf in leaves.values()):
        raise ConfigError("the model is in integers already; give the one that they were made of")
    selected = (trees.mask if callable(select) else trees.select)(leaves, select)
    paths = {number: path for path, number in model.graph.params.items()}
    constants = model.graph.constants | {number: leaves[path] for number, path in paths.items()}
    trained, kernels = trained_numbers(model), {}
    for op in model.graph.ops:
        for number in op.inputs if op.kind in LAYERS else ():
            path = source_path(model, number, paths) if number in trained else ""
            if path and selected[path]:
                axis = kernel_axis(op, constants) if number in paths else None
                kernels[path] = (path, axis, op.macs + kernels.get(path, (path, axis, 0))[2])
    return list(kernels.values())


def _check(change, against, levels, kernels) -> None:
    left = [change.left(level) for level in levels if change.legal(level)]
    if not levels or len(left) < len(levels) or left != sorted(set(left))[::-1]:
        raise ConfigError(f"levels of {against} must go from mild to strong, got {levels}")
    if not kernels:
        raise ConfigError("no kernel of a layer is selected")


def _measure(model, images, labels, kernels, change: Change, batch_size: int) -> Callable:
    """Compiles (level of each kernel, 0 for no change) -> (accuracy, nll), once."""
    apply = accelerate(model.apply)
    sizes = [model.leaves(model.params)[path].size for path, _, _ in kernels]

    @jax.jit
    def compress(params, strengths):
        leaves, treedef = jax.tree.flatten(params)
        for strength, (path, axis, _) in zip(strengths, kernels, strict=True):
            i = model.paths.index(path)
            leaves[i] = lax.cond(
                strength > 0,
                lambda w, s=strength, a=axis: change.apply(w, s, a),
                lambda w: w,
                leaves[i],
            )
        return jax.tree.unflatten(treedef, leaves)

    @jax.jit
    def sums(params, images, labels, weight):
        return metrics.sums(apply(params, images), labels, weight)

    padding = -len(images) % batch_size
    weight = np.ones(len(images), np.float32)
    columns = [
        np.split(
            np.pad(x, [(0, padding)] + [(0, 0)] * (x.ndim - 1)),
            range(batch_size, len(x), batch_size),
        )
        for x in (images, labels, weight)
    ]
    batches = jax.device_put(list(zip(*columns, strict=True)))

    def measure(levels):
        pairs = zip(levels, sizes, strict=True)
        strengths = [change.strength(level, size) if level else 0 for level, size in pairs]
        params = compress(model.params, np.asarray(strengths, np.int32))
        totals = jax.device_get([sums(params, *batch) for batch in batches])
        count, correct, nll = (
            sum(float(each[name]) for each in totals) for name in ("count", "correct", "nll")
        )
        return correct / count, nll / count

    return measure
