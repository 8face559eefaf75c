"""`channels`: which slices of a network's arrays are one channel, and can be cut only together.

In: a Model. Out: groups of channels, each with its slices of parameters: through convolutions,
depthwise ones included, dense layers, norms, residual sums, concatenation, flattening, pooling and
squeeze-and-excite. Axes whose channels are mixed, or followed by no rule, are kept, with a reason.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hcjax.graph.coupling.rules import couple
from hcjax.graph.coupling.union_find import Axes, Classes, Read
from hcjax.graph.model import Model


class Slices(NamedTuple):
    """Where channels lie along one axis of a parameter; indices: int[C, n] of each channel."""

    path: str
    axis: int
    indices: np.ndarray


class Group(NamedTuple):
    """Channels that lie in the same places, e.g. the outputs of one layer.

    channels: int[C], their numbers in `Channels.axes`. slices: of all parameters that they lie in.
    made_by: paths of the kernels whose outputs they are.
    """

    channels: np.ndarray
    slices: tuple[Slices, ...]
    made_by: tuple[str, ...]


class Channels(NamedTuple):
    """The channels of a graph.

    groups: those that may be cut. kept: (path, axis) of each parameter that nothing may be cut
    from -> why. axes: number of a value -> int[size] of each of its axes, the channel of each
    index; 0: it is kept; for a batch of one. count: of those numbers. reads: layers' sums over
    channels.
    """

    groups: tuple[Group, ...]
    kept: dict[tuple[str, int], str]
    axes: dict[int, Axes]
    count: int
    reads: tuple[Read, ...]


def channels(model: Model) -> Channels:
    """Returns the channels of a network's graph.

    A channel is a set of slices that only together can be cut: if all of its slices are zero, it
    adds nothing to any other channel or to the logits.

    Args:
      model: from `trace` or `fold`, in float.

    Returns:
      Channels. Those of a group lie in the same values, so that a layer that keeps a channel of
      each group is not empty.

    Raises:
      TypeError: if the model is quantized, or no Model.

    Note:
      A kernel that is computed from parameters by more than casts, products and moves is kept at
      its inputs; `fold` evaluates it. A constant one is kept too: its slices are nobody's to zero.

    Reference:
      Fang et al., "DepGraph: Towards Any Structural Pruning", 2023, arXiv:2301.12900. Deviation:
      classes of indices, found in one pass over the graph, instead of a graph of layers.

    Example:
      >>> import jax, jax.numpy as jnp
      >>> from hcjax.graph.tracing.trace import trace
      >>> params = {"a": jnp.ones((4, 8)), "b": jnp.ones(8), "c": jnp.ones((8, 3))}
      >>> apply = lambda p, x: jax.nn.relu(x @ p["a"] + p["b"]) @ p["c"]
      >>> (group,) = channels(trace(apply, params, jnp.ones((1, 4)))).groups
      >>> [(s.path, s.axis, s.indices.shape) for s in group.slices], group.made_by
      ([('a', 1, (8, 1)), ('b', 0, (8, 1)), ('c', 0, (8, 1))], ('a',))
    """
    c = couple(model)
    paths = {number: path for path, number in model.graph.params.items()}
    axes, count = _numbered(c)
    places = [
        (number, a, along)
        for number, found in axes.items()
        for a, along in enumerate(found)
        if along.any()
    ]
    part = np.zeros(count, np.int64)  # equal for channels that lie in the same places
    for _, _, along in places:
        times = np.bincount(along, minlength=count)
        part = np.unique(part * (times.max() + 1) + times, return_inverse=True)[1]
    groups = []
    first = {int(p): i for i, p in reversed(list(enumerate(part)))}
    for p in sorted(set(part[1:].tolist()), key=first.get):
        members = np.flatnonzero(part == p)
        members = members[members > 0]
        slices, made_by = [], []
        for number, a, along in places:
            if number in paths and (indices := _indices(along, members)).size:
                slices.append(Slices(paths[number], a, indices))
                if int(c.axes[number][a][0]) in c.made:
                    made_by.append(paths[number])
        if slices:
            groups.append(Group(members, tuple(slices), tuple(made_by)))
    why = c.why()
    kept = {
        (path, a): _why(why, c.roots(c.axes[number][a]))
        for number, path in paths.items()
        for a, along in enumerate(axes[number])
        if not along.any()
    }
    return Channels(tuple(groups), kept, axes, count, tuple(c.reads))


def _numbered(c: Classes) -> tuple[dict[int, Axes], int]:
    """Returns the channel of each index of each axis, counted from 1, and their count with 0."""
    found = {number: axes for number, axes in c.axes.items() if axes is not None}
    everything = np.concatenate([np.zeros(1, np.int64), *(n for a in found.values() for n in a)])
    free = np.unique(everything[c.free(everything)])
    free = np.unique(c.roots(free))
    numbers = np.zeros(int(everything.max()) + 1, np.int64)
    numbers[free] = np.arange(1, len(free) + 1)
    axes = {number: tuple(numbers[c.roots(n)] for n in a) for number, a in found.items()}
    return axes, len(free) + 1


def _indices(along: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Returns int[C, n]: where each of the channels lies along an axis."""
    at = np.flatnonzero(np.isin(along, members))
    return at[np.argsort(along[at], kind="stable")].reshape(len(members), -1)


def _why(why: dict[int, str], roots: np.ndarray) -> str:
    """Returns why an axis is kept."""
    reasons = [why[root] for root in roots.tolist()]
    return next((reason for reason in reasons if reason != why[0]), why[0])
