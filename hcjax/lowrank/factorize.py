"""`factorize`: a layer replaced by thinner ones in a row, where that takes fewer products.

A dense layer or a 1 x 1 convolution becomes two (truncated SVD), any other convolution up to three:
1 x 1, k x k between fewer channels, 1 x 1 (Tucker-2). Nothing but the kernels is approximated.
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
from hcjax.lowrank.ranks import Rank, chosen


def factorize(
    model: Model,
    *,
    rank: Rank | None = None,
    energy: float | None = None,
    macs: float | None = None,
    select: str | Sequence[str] | None = None,
) -> Model:
    """Returns the model with layers replaced by thinner ones in a row.

    Dense: W ≈ A B, of rank r, the best in squared error. Convolution: K ≈ Σ C[a, b] U[i, a] V[o, b]
    with U and V the leading singular vectors of the kernel unfolded by its input and by its output
    channels: 1 x 1 to r_in channels, the core, 1 x 1 to all outputs. A 1 x 1 that would not make
    fewer channels is left out. The bias stays on the last.

    Args:
      model: in float, best through `fold`. What kernels are computed from is evaluated.
      rank: at most so many, int >= 1; a layer stays where that would not lower its MACs. Or regular
        expression of a layer's whole name -> r, or (r_in, r_out) of a convolution: these layers and
        no others, whatever it costs.
      energy: part of the squared singular values to keep in each unfolding, in (0, 1]; a layer
        stays where that would not lower its MACs.
      macs: part of all layers' MACs to reach, in (0, 1), by the greatest energy that does.
      select: regular expressions of whole names of layers; None: all of them.

    Returns:
      Model with params `LAYER/first/kernel`, `LAYER/core/kernel` of a convolution with more than
      one tap, and `LAYER/last/kernel`, which train like any other. `ranks` of the same arguments
      says what becomes of each layer: with groups, and with a shared kernel, it always stays.

    Raises:
      ConfigError: if not one of rank, energy and macs is given, it is not legal or cannot be
        reached, a pattern matches no layer, or the model is quantized.

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
    found = chosen(model, rank=rank, energy=energy, macs=macs, select=select)
    changed = {layer.op.output: (layer, ranks) for layer, ranks in found if ranks}
    leaves = dict(model.leaves(model.params))
    paths = {number: path for path, number in model.graph.params.items()}
    outputs = [o for op in model.graph.ops for o in op.outputs]
    fresh = itertools.count(max([*paths, *model.graph.constants, model.graph.images, *outputs]) + 1)
    ops: list[Op] = []
    for op in model.graph.ops:
        if op.output not in changed:
            ops.append(op)
            continue
        layer, ranks = changed[op.output]
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
    ops = live_ops(ops, model.graph.logits)
    used = {i for op in ops for i in op.inputs} | {model.graph.logits}
    params = {path: number for number, path in paths.items() if number in used}
    constants = {n: v for n, v in model.graph.constants.items() if n in used}
    frozen = tuple(held for held in model.graph.frozen if held[1] in used)
    changes = {"ops": tuple(ops), "params": params, "constants": constants, "frozen": frozen}
    graph, kept = model.graph._replace(**changes), {path: leaves[path] for path in params}
    return model.replace(graph=graph, params=kept, paths=tuple(sorted(kept)))


def _parts(
    layer: Layer, ranks: tuple[int, ...], fresh: Iterator[int]
) -> Iterator[tuple[str, Op, np.ndarray]]:
    """Yields the layers that take one's place: the name of each, its op and its kernel."""
    op, number = layer.op, layer.op.inputs[layer.side]
    kernels = _kernels(layer, ranks)
    macs = [n for n in layer.parts(ranks) if n]
    make = {"conv_general_dilated": _convolution, "dot_general": _dense}[op.kind]
    for i, (name, place, kernel) in enumerate(kernels):
        last = i == len(kernels) - 1
        inputs = (number, next(fresh)) if layer.side == 0 else (next(fresh), number)
        number = op.output if last else next(fresh)
        array, shape, params = make(layer, place, kernel)
        about = {"outputs": (number,), "shape": shape, "macs": macs[i]}
        if last:
            about |= {"inputs": (*inputs, *op.inputs[2:]), "params": op.params | params}
        else:  # of the kernel's dtype, as its reader wants it
            params |= {"preferred_element_type": None}
            about |= {"inputs": inputs, "params": op.params | params, "dtype": layer.kernel.dtype}
        yield name, defined(op, **about), array


def _kernels(layer: Layer, ranks: tuple[int, ...]) -> list[tuple[str, int, np.ndarray]]:
    """Returns name, place and kernel [O, I, taps]; place: -1 before, 0 instead, 1 after the layer.

    The two matrices of a product are made equally large, so that one step size trains both.
    """
    outputs, inputs, _ = layer.tensor.shape
    if len(ranks) == 1:
        matrix, vectors = layer.tensor[..., 0], layer.spectra[0][1][:, : ranks[0]]
        main, after = (
            (vectors.T, matrix @ vectors) if inputs < outputs else (vectors.T @ matrix, vectors)
        )
        sizes = np.linalg.norm(after, axis=0), np.linalg.norm(main, axis=1)
        scale = np.sqrt(np.divide(*sizes, where=sizes[1] > 0, out=np.ones(ranks[0])))
        scale[scale == 0] = 1
        return [
            ("first", 0, (main.T * scale).T[..., None]),
            ("last", 1, (after / scale)[..., None]),
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


# (kernel in the layer's layout, shape of the result, params that change)
Made = tuple[np.ndarray, tuple[Size, ...], dict]


def _dense(layer: Layer, place: int, kernel: np.ndarray) -> Made:
    op, width, free_axes = layer.op, len(kernel), len(layer.op.shape) - 1
    if place == 0:
        sizes = [d for a, d in enumerate(layer.kernel.shape) if a != layer.axis]
        array = np.moveaxis(kernel.reshape(width, *sizes), 0, layer.axis)
        return array, _with(op.shape, 0 if layer.side else free_axes, width), {}
    contracted = ((1,), (0,)) if layer.side else ((free_axes,), (0,))
    matrix = kernel[..., 0] if layer.side else kernel[..., 0].T
    return matrix, op.shape, {"dimension_numbers": (contracted, ((), ()))}


def _convolution(layer: Layer, place: int, kernel: np.ndarray) -> Made:
    op, numbers = layer.op, lax.ConvDimensionNumbers(*layer.op.params["dimension_numbers"])
    rank = len(op.shape) - 2
    taps = [layer.kernel.shape[a] for a in numbers.rhs_spec[2:]] if place == 0 else [1] * rank
    array = kernel.reshape(*kernel.shape[:2], *taps).transpose(np.argsort(numbers.rhs_spec))
    if place == 0:
        return array, _with(op.shape, numbers.out_spec[1], len(kernel)), {}
    ones = (1,) * rank
    params = {"window_strides": ones, "lhs_dilation": ones, "rhs_dilation": ones}
    params |= {"padding": ((0, 0),) * rank}
    if place < 0:
        numbers = numbers._replace(out_spec=numbers.lhs_spec)
        shape = _with(layer.reads, numbers.lhs_spec[1], len(kernel))
    else:
        numbers, shape = numbers._replace(lhs_spec=numbers.out_spec), op.shape
    return array, shape, params | {"dimension_numbers": numbers}


def _with(shape: tuple[Size, ...], axis: int, size: int) -> tuple[Size, ...]:
    return (*shape[:axis], Size(0, size), *shape[axis + 1 :])
