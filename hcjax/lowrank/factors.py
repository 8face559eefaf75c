"""The layers of a model as tensors: their singular values, and their MACs at given ranks."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from hcjax.errors import ConfigError, no_match
from hcjax.graph.axes import channel_axis, kernel_axis, layer_axes
from hcjax.graph.constants import evaluate_constants, source_path
from hcjax.graph.model import LAYERS, Model, Op, Size, input_shapes, layer_of


class Layer(NamedTuple):
    """A convolution or dense layer, and the singular values of its kernel.

    Attributes:
      op, name: its op; its name in messages and patterns.
      side: index of the operand that depends on the images; the other operand is the kernel.
      kernel: in its own layout. axis: of its output channels.
      tensor: the kernel as float64[O, I, taps].
      reads: shape of the operand that depends on the images.
      spectra: (squared singular values, descending; singular vectors) of each unfolding of the
        kernel: one of a matrix; by inputs and by outputs of other kernels. () if the layer must
        stay as it is.
      why: the reason that the layer must stay; "" if it need not.
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
        """The full ranks, without approximation."""
        return tuple(len(energies) for energies, _ in self.spectra)

    def macs(self, ranks: tuple[int, ...]) -> int:
        """Counts the MACs at these ranks, for one image; () stands for the layer itself."""
        return self.op.macs if not ranks else sum(n for n in self.parts(ranks) if n)

    def parts(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """Counts the MACs of each layer in the replacement; 0 for one that is left out."""
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
        """Finds the lowest ranks that keep a fraction of the squared singular values."""
        ranks = []
        for energies, _ in self.spectra:
            sums = np.cumsum(energies)
            ranks.append(int(np.searchsorted(sums, energy * sums[-1] * (1 - 1e-12))) + 1)
        return tuple(map(min, ranks, self.full))

    def cheapest(self, ranks: tuple[int, ...]) -> tuple[int, ...]:
        """Finds the ranks of the fewest MACs, none below these; () stands for the layer itself."""
        if not ranks:
            return ()
        options = itertools.product(
            *(sorted({r, f}) for r, f in zip(ranks, self.full, strict=True))
        )
        return min([(), *options], key=self.macs)


def read(model: Model, select: Sequence[str] | None) -> list[Layer]:
    """Reads every convolution and dense layer of a model.

    Args:
      model: in float.
      select: regular expressions of whole names; the others get a `why`. None: all layers.

    Raises:
      ConfigError: if a pattern matches no layer.
    """
    ops, values, broadcast = evaluate_constants(model)
    paths = {number: path for path, number in model.graph.params.items()}
    shapes = input_shapes(model) | {op.output: op.shape for op in ops}
    sources, constants = _sources(model), set(values) | set(broadcast)
    uses: dict[str, int] = {}
    for op in ops:
        if not constants.issuperset(op.inputs):
            for path in set().union(*(sources.get(i, set()) for i in op.inputs)):
                uses[path] = uses.get(path, 0) + 1
    layers = []
    for op in ops:
        varying = [i for i in op.inputs[:2] if i not in constants]
        if op.kind not in LAYERS or len(varying) != 1 or channel_axis(op, values) is None:
            continue
        side = op.inputs.index(varying[0])
        kernel = op.inputs[1 - side]
        path = source_path(model, kernel, paths)
        name = layer_of(path) if path else op.kind
        why = ""
        if not path:
            why = "its kernel is a constant"
        elif op.params.get("feature_group_count", 1) != 1:
            why = "it has groups"
        elif any(uses[p] > 1 for p in sources[kernel]):
            why = "its kernel is shared"
        elif select is not None and not any(re.fullmatch(s, name) for s in select):
            why = "it is not selected"
        axis, value = kernel_axis(op, values), values[kernel]
        tensor = layer_axes(op, values).matrices(value)
        spectra = () if why else _spectra(tensor)
        shape = shapes[varying[0]]
        layers.append(Layer(op, name, side, value, axis, tensor, shape, spectra, why))
    for pattern in select or ():
        if not any(re.fullmatch(pattern, layer.name) for layer in layers):
            names = [layer.name for layer in layers]
            raise ConfigError(f"pattern {no_match(pattern, 'layer', names)}")
    return layers


def _sources(model: Model) -> dict[int, set[str]]:
    """Maps each value that does not depend on the images to the parameters it is computed from."""
    sources = {number: {path} for path, number in model.graph.params.items()}
    images = set(model.graph.inputs)
    for op in model.graph.ops:
        if images.intersection(op.inputs):
            images.update(op.outputs)
            continue
        paths = set().union(*(sources.get(i, set()) for i in op.inputs))
        sources |= dict.fromkeys(op.outputs, paths)
    return sources


def _spectra(tensor: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], ...]:
    """Computes the squared singular values and the vectors of each unfolding of a kernel."""
    outputs, inputs, taps = tensor.shape
    by_outputs = tensor.reshape(outputs, -1)
    by_inputs = tensor.transpose(1, 0, 2).reshape(inputs, -1)
    if taps == 1:
        return (_spectrum(by_inputs if inputs < outputs else by_outputs),)
    return _spectrum(by_inputs), _spectrum(by_outputs)


def _spectrum(matrix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    energies, vectors = np.linalg.eigh(matrix @ matrix.T)
    return np.maximum(energies[::-1], 0), vectors[:, ::-1]
