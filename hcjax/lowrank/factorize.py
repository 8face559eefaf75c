"""`factorize`: replaces a layer by a sequence of thinner ones, where that takes fewer MACs.

A dense layer or a 1 x 1 convolution becomes two layers (truncated SVD), any other convolution up to
three: 1 x 1, k x k between fewer channels, 1 x 1 (Tucker-2). Only the kernels are approximated.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jax import lax

from hcjax.graph.model import Model, Op, Size, live_ops, unused_name
from hcjax.graph.ops.table import defined
from hcjax.lowrank.factors import Layer
from hcjax.lowrank.ranks import Rank, chosen_ranks


def factorize(
    model: Model,
    *,
    rank: Rank | None = None,
    energy: float | None = None,
    macs: float | None = None,
    select: str | Sequence[str] | None = None,
) -> Model:
    """Replaces layers by sequences of thinner ones, by truncated SVD or Tucker-2 decomposition.

    Dense: W ≈ A B of rank r, optimal in squared error. Convolution: K ≈ Σ C[a, b] U[i, a] V[o, b]
    with U and V the leading singular vectors of the kernel unfolded by its input and by its output
    channels: 1 x 1 to r_in channels, the core, 1 x 1 to all outputs. A 1 x 1 that would not reduce
    the channels is left out. The last layer has the bias.

    Args:
      model: in float, best after `fold`. A kernel that is computed from parameters is evaluated.
      rank: the largest rank, >= 1; a layer stays as it is where this would not lower its MACs. Or a
        mapping from a regular expression of a layer's whole name to r, or (r_in, r_out) of a
        convolution: exactly these layers are replaced, whatever their MACs.
      energy: fraction of the squared singular values to keep in each unfolding, in (0, 1]; a layer
        stays as it is where this would not lower its MACs.
      macs: fraction of all layers' MACs to reach, in (0, 1), with the largest energy possible.
      select: regular expressions of whole names of layers; None: all layers.

    Returns:
      Model with params `LAYER/first/kernel`, `LAYER/core/kernel` of a convolution with more than
      one tap, and `LAYER/last/kernel`, which can be trained. `ranks` with the same arguments lists
      each layer's ranks. Layers with groups or a shared kernel are never replaced.

    Raises:
      ConfigError: unless exactly one of rank, energy and macs is given, or if it is out of range or
        cannot be reached, a pattern matches no layer, or the model is quantized.

    Reference:
      Kim et al., "Compression of Deep Convolutional Neural Networks for Fast and Low Power Mobile
      Applications", 2016, arXiv:1511.06530, section 3.1. Deviation: ranks by energy, not by
      variational matrix factorization.

    Example:
      >>> from hcjax.graph.tracing.trace import trace
      >>> params = {"dense": {"kernel": jnp.outer(jnp.arange(1.0, 5.0), jnp.ones(3))}}
      >>> model = trace(lambda p, x: x @ p["dense"]["kernel"], params, jnp.ones((1, 4)))
      >>> small = factorize(model, energy=0.999)
      >>> {path: leaf.shape for path, leaf in small.params.items()}
      {'dense/first/kernel': (4, 1), 'dense/last/kernel': (1, 3)}
      >>> small.apply(small.params, jnp.ones((1, 4))).round(3).tolist()
      [[10.0, 10.0, 10.0]]
    """
    layers = chosen_ranks(model, rank=rank, energy=energy, macs=macs, select=select)
    replaced = {layer.op.output: (layer, ranks) for layer, ranks in layers if ranks}
    leaves = dict(model.leaves(model.params))
    paths = {number: path for path, number in model.graph.params.items()}
    fresh = itertools.count(model.graph.last + 1)
    ops: list[Op] = []
    for op in model.graph.ops:
        if op.output not in replaced:
            ops.append(op)
            continue
        layer, ranks = replaced[op.output]
        for name, part, kernel in _parts(layer, ranks, fresh):
            number = part.inputs[1 - layer.side]
            paths[number] = unused_name(f"{layer.name}/{name}/kernel", leaves)
            leaves[paths[number]] = jnp.asarray(kernel, layer.kernel.dtype)
            ops.append(part)
        for bias in op.inputs[2:]:
            if bias in paths:
                value = leaves[paths[bias]]
                paths[bias] = unused_name(f"{layer.name}/{name}/bias", leaves)
                leaves[paths[bias]] = value
    ops = live_ops(ops, model.graph.outputs)
    used = {i for op in ops for i in op.inputs}.union(model.graph.outputs)
    params = {path: number for number, path in paths.items() if number in used}
    constants = {n: v for n, v in model.graph.constants.items() if n in used}
    frozen = tuple(entry for entry in model.graph.frozen if entry[1] in used)
    graph = model.graph._replace(ops=tuple(ops), params=params, constants=constants, frozen=frozen)
    new_params = {path: leaves[path] for path in params}
    return model.replace(graph=graph, params=new_params, paths=tuple(sorted(new_params)))


def _parts(
    layer: Layer, ranks: tuple[int, ...], fresh: Iterator[int]
) -> Iterator[tuple[str, Op, np.ndarray]]:
    """Yields the name, op and kernel of each layer in the replacement of one layer."""
    op, number = layer.op, layer.op.inputs[layer.side]
    kernels = _kernels(layer, ranks)
    macs = [n for n in layer.parts(ranks) if n]
    make = {"conv_general_dilated": _convolution, "dot_general": _dense}[op.kind]
    for i, (name, place, kernel) in enumerate(kernels):
        last = i == len(kernels) - 1
        inputs = (number, next(fresh)) if layer.side == 0 else (next(fresh), number)
        number = op.output if last else next(fresh)
        array, shape, params = make(layer, place, kernel)
        fields = {"outputs": (number,), "shape": shape, "macs": macs[i]}
        if last:
            fields |= {"inputs": (*inputs, *op.inputs[2:]), "params": op.params | params}
        else:  # computes in the kernel's dtype, which the next layer reads
            params |= {"preferred_element_type": None}
            fields |= {"inputs": inputs, "params": op.params | params, "dtype": layer.kernel.dtype}
        yield name, defined(op, **fields), array


def _kernels(layer: Layer, ranks: tuple[int, ...]) -> list[tuple[str, int, np.ndarray]]:
    """Lists name, place and kernel [O, I, taps]; place: -1 before, 0 instead, 1 after the layer.

    The two matrices of a product get equal norms, so that one learning rate suits both.
    """
    outputs, inputs, _ = layer.tensor.shape
    if len(ranks) == 1:
        matrix, vectors = layer.tensor[..., 0], layer.spectra[0][1][:, : ranks[0]]
        first, last = (
            (vectors.T, matrix @ vectors) if inputs < outputs else (vectors.T @ matrix, vectors)
        )
        norms = np.linalg.norm(last, axis=0), np.linalg.norm(first, axis=1)
        scale = np.sqrt(np.divide(*norms, where=norms[1] > 0, out=np.ones(ranks[0])))
        scale[scale == 0] = 1
        return [
            ("first", 0, (first.T * scale).T[..., None]),
            ("last", 1, (last / scale)[..., None]),
        ]
    (_, by_input), (_, by_output) = layer.spectra
    u, v = by_input[:, : ranks[0]], by_output[:, : ranks[1]]
    before, after, core = [], [], layer.tensor
    if ranks[0] < inputs:
        core = np.einsum("oit,ia->oat", core, u)
        before = [("first", -1, u.T[..., None])]
    if ranks[1] < outputs:
        core = np.einsum("oit,ob->bit", core, v)
        after = [("last", 1, v[..., None])]
    return [*before, ("core", 0, core), *after]


# (kernel in the layer's layout, shape of the result, params of the op that change)
Part = tuple[np.ndarray, tuple[Size, ...], dict]


def _dense(layer: Layer, place: int, kernel: np.ndarray) -> Part:
    op, width, free_axes = layer.op, len(kernel), len(layer.op.shape) - 1
    if place == 0:
        sizes = [d for a, d in enumerate(layer.kernel.shape) if a != layer.axis]
        array = np.moveaxis(kernel.reshape(width, *sizes), 0, layer.axis)
        return array, _resized(op.shape, 0 if layer.side else free_axes, width), {}
    contracted = ((1,), (0,)) if layer.side else ((free_axes,), (0,))
    matrix = kernel[..., 0] if layer.side else kernel[..., 0].T
    return matrix, op.shape, {"dimension_numbers": (contracted, ((), ()))}


def _convolution(layer: Layer, place: int, kernel: np.ndarray) -> Part:
    op, numbers = layer.op, lax.ConvDimensionNumbers(*layer.op.params["dimension_numbers"])
    rank = len(op.shape) - 2
    taps = [layer.kernel.shape[a] for a in numbers.rhs_spec[2:]] if place == 0 else [1] * rank
    array = kernel.reshape(*kernel.shape[:2], *taps).transpose(np.argsort(numbers.rhs_spec))
    if place == 0:
        return array, _resized(op.shape, numbers.out_spec[1], len(kernel)), {}
    ones = (1,) * rank
    params = {"window_strides": ones, "lhs_dilation": ones, "rhs_dilation": ones}
    params |= {"padding": ((0, 0),) * rank}
    if place < 0:
        numbers = numbers._replace(out_spec=numbers.lhs_spec)
        shape = _resized(layer.reads, numbers.lhs_spec[1], len(kernel))
    else:
        numbers, shape = numbers._replace(lhs_spec=numbers.out_spec), op.shape
    return array, shape, params | {"dimension_numbers": numbers}


def _resized(shape: tuple[Size, ...], axis: int, size: int) -> tuple[Size, ...]:
    return (*shape[:axis], Size(0, size), *shape[axis + 1 :])
