"""`channels`: the slices of a network's arrays that are one channel and can be cut only together.

In: a Model. Out: groups of channels, each with its slices of parameters: through convolutions,
depthwise ones included, dense layers, norms, residual sums, concatenation, flattening, pooling and
squeeze-and-excite. Axes that an op mixes, or that no rule can follow, are kept, with a reason.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from hcjax.core import brief
from hcjax.graph.coupling.rules import couple
from hcjax.graph.coupling.union_find import Axes, Classes, Read
from hcjax.graph.model import Model


class Slices(NamedTuple):
    """Channels along one axis of a parameter; indices: int[C, n] of each channel."""

    path: str
    axis: int
    indices: np.ndarray

    __repr__ = brief.record


class Group(NamedTuple):
    """Channels that lie in the same places, e.g. the outputs of one layer.

    channels: int[C], their numbers in `Channels.axes`. slices: their slices of all parameters.
    made_by: paths of the kernels that compute them.
    """

    channels: np.ndarray
    slices: tuple[Slices, ...]
    made_by: tuple[str, ...]

    __repr__ = brief.record


class Channels(NamedTuple):
    """The channels of a graph.

    groups: the channels that may be cut. kept: (path, axis) of each axis of a parameter that must
    stay -> the reason. axes: number of a value -> int[size] of each of its axes for a batch of one,
    the channel of each index; 0: it must stay. count: of the channel numbers, with 0. reads:
    layers' sums over channels.
    """

    groups: tuple[Group, ...]
    kept: dict[tuple[str, int], str]
    axes: dict[int, Axes]
    count: int
    reads: tuple[Read, ...]

    __repr__ = brief.record


def channels(model: Model) -> Channels:
    """Returns the channels of a network's graph.

    A channel is a set of slices that can be cut only together: if all of its slices are zero, it
    adds nothing to any other channel or to the logits.

    Args:
      model: from `trace` or `fold`, in float.

    Returns:
      Channels. The channels of a group lie in the same values, so a layer that keeps a channel of
      each group is not empty.

    Raises:
      TypeError: if the model is quantized, or no Model.

    Note:
      A kernel that is computed from parameters by more than casts, products and moves is kept at
      its inputs; `fold` evaluates it. So is a constant kernel: no parameter sets its slices to 0.

    Reference:
      Fang et al., "DepGraph: Towards Any Structural Pruning", 2023, arXiv:2301.12900. Deviation:
      classes of indices in one pass over the graph, instead of a graph of layers.

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
    axes, count = _number_channels(c)
    places = [
        (number, a, numbers)
        for number, value_axes in axes.items()
        for a, numbers in enumerate(value_axes)
        if numbers.any()
    ]
    partition = np.zeros(count, np.int64)  # equal for channels in the same places
    for _, _, numbers in places:
        counts = np.bincount(numbers, minlength=count)
        partition = np.unique(partition * (counts.max() + 1) + counts, return_inverse=True)[1]
    groups = []
    first = {int(part): i for i, part in reversed(list(enumerate(partition)))}
    for part in sorted(set(partition[1:].tolist()), key=first.get):
        members = np.flatnonzero(partition == part)
        members = members[members > 0]
        slices, made_by = [], []
        for number, a, numbers in places:
            if number in paths and (indices := _find_indices(numbers, members)).size:
                slices.append(Slices(paths[number], a, indices))
                if int(c.axes[number][a][0]) in c.kernel_outputs:
                    made_by.append(paths[number])
        if slices:
            groups.append(Group(members, tuple(slices), tuple(made_by)))
    reasons = c.reasons()
    kept = {
        (path, a): _choose_reason(reasons, c.roots(c.axes[number][a]))
        for number, path in paths.items()
        for a, numbers in enumerate(axes[number])
        if not numbers.any()
    }
    return Channels(tuple(groups), kept, axes, count, tuple(c.reads))


def _number_channels(c: Classes) -> tuple[dict[int, Axes], int]:
    """Returns the channel number of each index of each axis, from 1, and their count with 0."""
    node_axes = {number: axes for number, axes in c.axes.items() if axes is not None}
    nodes = np.concatenate([np.zeros(1, np.int64), *(n for a in node_axes.values() for n in a)])
    free = np.unique(nodes[c.free(nodes)])
    free = np.unique(c.roots(free))
    numbers = np.zeros(int(nodes.max()) + 1, np.int64)
    numbers[free] = np.arange(1, len(free) + 1)
    axes = {number: tuple(numbers[c.roots(n)] for n in a) for number, a in node_axes.items()}
    return axes, len(free) + 1


def _find_indices(numbers: np.ndarray, members: np.ndarray) -> np.ndarray:
    """Returns int[C, n], the indices of each channel along an axis."""
    indices = np.flatnonzero(np.isin(numbers, members))
    return indices[np.argsort(numbers[indices], kind="stable")].reshape(len(members), -1)


def _choose_reason(by_root: dict[int, str], roots: np.ndarray) -> str:
    """Returns the reason for which an axis is kept."""
    candidates = [by_root[root] for root in roots.tolist()]
    return next((reason for reason in candidates if reason != by_root[0]), by_root[0])
