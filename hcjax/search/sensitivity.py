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

from hcjax import tasks, trees
from hcjax.accelerate.accelerate import accelerate
from hcjax.core import notebook, registry, text
from hcjax.errors import ConfigError
from hcjax.graph import interface, qtensor
from hcjax.graph.axes import kernel_axis
from hcjax.graph.constants import evaluate_constants, is_table, source_path, trained_numbers
from hcjax.graph.model import LAYERS, Model, layer_of
from hcjax.search.levels import CHANGES, Change
from hcjax.tasks import Task, examples, scoring


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
    score: str = "accuracy"

    _repr_html_ = notebook.to_html
    to_csv = notebook.to_csv
    to_latex = notebook.to_latex

    @property
    def grid(self) -> notebook.Grid:
        """A row for each kernel, with accuracies as fractions."""
        head = ("kernel", "weights", "MACs", *(f"{self.against} {each:g}" for each in self.levels))
        rows = [(row.path, row.size, row.macs, *row.accuracy) for row in self.rows]
        return notebook.Grid(head, rows, f"{self.score} {100 * self.accuracy:.2f} %")

    def __repr__(self) -> str:
        columns = [
            f"{self.against} {self.levels[0]:g}",
            *(f"{level:g}" for level in self.levels[1:]),
        ]
        lines = [("kernel", "weights", "MACs", *columns)]
        for row in self.rows:
            lines.append((row.path, row.size, row.macs, *(f"{100 * a:.2f}" for a in row.accuracy)))
        return f"{self.grid.caption}\n{text.aligned(lines)}"


def sensitivity(
    model: Model,
    images: Any,
    labels: Any,
    *,
    against: str = "sparsity",
    levels: Sequence[float] | None = None,
    select: trees.Select | str | Sequence[str] = trees.kernels,
    batch_size: int = 1000,
    task: Task | str = "classification",
) -> Sensitivity:
    """Measures a network's accuracy with one kernel at a time pruned, or rounded to integers.

    Args:
      model: from `trace`, best through `fold`.
      images: float array [N, ...], normalised as in training, or a tuple of all inputs. Use the
        validation set: a choice made on the test set makes its accuracy meaningless.
      labels: int[N], each in [0, K), or other targets of the task.
      against: "sparsity": the fraction of the kernel's weights, those of least magnitude, that is
        set to zero. "bits": the kernel is rounded to symmetric integers of so many bits, with one
        scale per output channel; activations stay in float.
      levels: sparsities in [0, 1), or bits in 2..8, from the mildest on. None: ten sparsities up to
        0.995, or 8 to 2 bits.
      select: which kernels, as of `prune.masks`.
      batch_size: images at a time, >= 1.
      task: what the network is for, see `hcjax.tasks`, or its name there. Of another task than
        classification "accuracy" is its best score, and "nll" its mean loss.

    Returns:
      Sensitivity; print it, or give it to `pick`. `hcjax.pictures.layer_curves` draws it.

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
    task = tasks.get(task)
    images, labels = examples.checked(model, images, labels, batch_size, task)
    kernels = _kernels(model, select)
    _check(change, against, levels, kernels)
    count = interface.count(model.inputs, images)
    measure = _measure(model, images, labels, kernels, change, min(batch_size, count), task)
    accuracy, nll = measure([0] * len(kernels))
    rows = []
    for i, (path, _, macs) in enumerate(kernels):
        pairs = [measure([0] * i + [a] + [0] * (len(kernels) - i - 1)) for a in levels]
        size = model.leaves(model.params)[path].size
        rows.append(KernelSensitivity(path, layer_of(path), size, macs, *zip(*pairs, strict=True)))
    return Sensitivity(against, levels, tuple(rows), accuracy, nll, measure, task.best)


def _kernels(model: Model, select: Any) -> list[tuple[str, int | None, int]]:
    """Lists (path, axis of the output channels, MACs) of each kernel that a layer reads.

    The axis is None where the layer reads a value computed from the parameter, and of a table of
    embeddings, which has one scale.
    """
    leaves = model.leaves(model.params)
    if any(isinstance(leaf, qtensor.QTensor) for leaf in leaves.values()):
        raise ConfigError("the model is in integers already; give the one that they were made of")
    selected = (trees.mask if callable(select) else trees.select)(leaves, select)
    paths = {number: path for path, number in model.graph.params.items()}
    constants = model.graph.constants | {number: leaves[path] for number, path in paths.items()}
    trained, kernels = trained_numbers(model), {}
    gathers = any(op.kind == "gather" for op in model.graph.ops)
    known = evaluate_constants(model)[1] if gathers else constants
    for op in model.graph.ops:
        read = op.inputs if op.kind in LAYERS else ()
        looked_up = op.inputs[:1] if is_table(op, known) else ()
        for number in (*read, *looked_up):
            path = source_path(model, number, paths) if number in trained else ""
            if path and selected[path]:
                axis = kernel_axis(op, constants) if number in paths and read else None
                kernels[path] = (path, axis, op.macs + kernels.get(path, (path, axis, 0))[2])
    return list(kernels.values())


def _check(change, against, levels, kernels) -> None:
    left = [change.left(level) for level in levels if change.legal(level)]
    if not levels or len(left) < len(levels) or left != sorted(set(left))[::-1]:
        raise ConfigError(f"levels of {against} must go from mild to strong, got {levels}")
    if not kernels:
        raise ConfigError("no kernel of a layer is selected")


def _measure(
    model: Model,
    images: list,
    targets: Any,
    kernels: list,
    change: Change,
    batch_size: int,
    task: Task,
) -> Callable:
    """Compiles (level of each kernel, 0 for no change) -> (best score, mean loss), once."""
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

    def outputs(params, arrays):
        return model.compute(model.leaves(params), arrays)

    count = jax.jit(scoring.counted(task, accelerate(outputs)))
    parts, masks = scoring.batched(targets, batch_size, pad=True)
    size = len(masks) * batch_size
    whole = [scoring.padded(x, size) for x in images]
    batches = jax.device_put(interface.batches(model.inputs, whole, batch_size))
    parts, device_masks = jax.device_put((parts, masks))

    def measure(levels):
        pairs = zip(levels, sizes, strict=True)
        strengths = [change.strength(level, size) if level else 0 for level, size in pairs]
        params = compress(model.params, np.asarray(strengths, np.int32))

        def count_batch(i, y, mask):
            return count(y, device_masks[i], params, batches[i])

        scores = scoring.summary(task, count_batch, parts, masks)
        return scores[task.best], scores[task.mean_loss]

    return measure
