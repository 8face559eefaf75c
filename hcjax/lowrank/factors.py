"""The layers of a model as tensors, their singular values, and what ranks of them cost."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph.axes import channel_axis, kernel_axis, layer_axes
from hcjax.graph.constants import evaluate_constants, source_path
from hcjax.graph.model import LAYERS, Model, Op, Size, layer_of


class Layer(NamedTuple):
    """A layer of a model: its op, its kernel, and how that can be factorised.

    side: which operand depends on the images; the other is the kernel. tensor: that, as
    float64[O, I, taps]. axis: of its channels, in its own layout. reads: shape of what it reads.
    spectra: (squared singular values, descending; singular vectors) of the ways in which the kernel
    is unfolded: of the matrix, or by inputs and by outputs; () where it stays. why: it stays.
    """

    op: Op
    name: str
    side: int
    kernel: Any
    axis: int
    tensor: np.ndarray
    reads: tuple[Size, ...]
    spectra: tuple[tuple[np.ndarray, np.ndarray], ...]
    why: str

    @property
    def full(self) -> tuple[int, ...]:
        """The ranks at which nothing is lost."""
        return tuple(len(energies) for energies, _ in self.spectra)

    def macs(self, ranks: tuple[int, ...]) -> int:
        """Returns the products of what takes the layer's place, for one image; () for itself."""
        return self.op.macs if not ranks else sum(n for n in self.parts(ranks) if n)

    def parts(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """Returns the products of each layer that takes its place; 0 for one that is left out."""
        outputs, inputs, taps = self.tensor.shape
        written = self.op.macs // max(self.tensor.size, 1)
        if len(ranks) == 1:
            return written * ranks[0] * inputs, written * ranks[0] * outputs
        first, last = ranks
        read = math.prod(sum(size) for size in self.reads) // inputs
        before = read * inputs * first if first < inputs else 0
        after = written * last * outputs if last < outputs else 0
        return before, written * first * last * taps, after

    def by_energy(self, energy: float) -> tuple[int, ...]:
        """Returns the least ranks that keep a part of the squared singular values."""
        found = []
        for energies, _ in self.spectra:
            sums = np.cumsum(energies)
            found.append(int(np.searchsorted(sums, energy * sums[-1] * (1 - 1e-12))) + 1)
        return tuple(map(min, found, self.full))

    def cheapest(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """Returns ranks that lose no more than these, of the fewest products; () for the layer."""
        if not ranks:
            return ()
        options = itertools.product(
            *(sorted({r, f}) for r, f in zip(ranks, self.full, strict=True))
        )
        return min([(), *options], key=self.macs)


def read(model: Model, select: Sequence[str] | None) -> list[Layer]:
    """Returns every layer of a model."""
    ops, values, stretched = evaluate_constants(model)
    paths = {number: path for path, number in model.graph.params.items()}
    shapes = {model.graph.images: (Size(1, 0), *(Size(0, d) for d in model.image_shape))}
    shapes |= {op.output: op.shape for op in ops}
    behind, known = _behind(model), set(values) | set(stretched)
    readers: dict[str, int] = {}
    for op in ops:
        if not known.issuperset(op.inputs):
            for path in set().union(*(behind.get(i, set()) for i in op.inputs)):
                readers[path] = readers.get(path, 0) + 1
    found = []
    for op in ops:
        inside = [i for i in op.inputs[:2] if i not in known]
        if op.kind not in LAYERS or len(inside) != 1 or channel_axis(op, values) is None:
            continue
        side = op.inputs.index(inside[0])
        kernel = op.inputs[1 - side]
        path = source_path(model, kernel, paths)
        name = layer_of(path) if path else op.kind
        why = ""
        if not path:
            why = "its kernel is a constant"
        elif op.params.get("feature_group_count", 1) != 1:
            why = "it has groups"
        elif any(readers[p] > 1 for p in behind[kernel]):
            why = "its kernel is shared"
        elif select is not None and not any(re.fullmatch(s, name) for s in select):
            why = "it is not selected"
        axis, value = kernel_axis(op, values), values[kernel]
        tensor = layer_axes(op, values).matrices(value)
        spectra = () if why else _spectra(tensor)
        found.append(Layer(op, name, side, value, axis, tensor, shapes[inside[0]], spectra, why))
    for pattern in select or ():
        if not any(re.fullmatch(pattern, layer.name) for layer in found):
            names = ", ".join(layer.name for layer in found)
            raise ConfigError(f"pattern {pattern!r} matches no layer; the layers are: {names}")
    return found


def _behind(model: Model) -> dict[int, set[str]]:
    """Returns the parameters that each number without images is computed from."""
    found = {number: {path} for path, number in model.graph.params.items()}
    images = {model.graph.images}
    for op in model.graph.ops:
        if images.intersection(op.inputs):
            images.update(op.outputs)
            continue
        found |= dict.fromkeys(op.outputs, set().union(*(found.get(i, set()) for i in op.inputs)))
    return found


def _spectra(tensor: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Returns the squared singular values and the vectors of each way to unfold a kernel."""
    outputs, inputs, taps = tensor.shape
    by_outputs = tensor.reshape(outputs, -1)
    by_inputs = tensor.transpose(1, 0, 2).reshape(inputs, -1)
    if taps == 1:
        return (_spectrum(by_inputs if inputs < outputs else by_outputs),)
    return _spectrum(by_inputs), _spectrum(by_outputs)


def _spectrum(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    energies, vectors = np.linalg.eigh(matrix @ matrix.T)
    return np.maximum(energies[::-1], 0), vectors[:, ::-1]
