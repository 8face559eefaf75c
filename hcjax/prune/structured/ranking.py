"""Which channels go first: units in the order of a ranking, taken until enough is gone."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph.coupling.channels import Channels, Group
from hcjax.graph.model import LAYERS, Model
from hcjax.graph.ops import KINDS

SCOPES = ("global", "uniform")


class Unit(NamedTuple):
    """Channels of one group that go together, once those of its lower units are gone."""

    rank: float
    group: int
    channels: np.ndarray


class Products(NamedTuple):
    """How many products a network's layers add up.

    sizes: int64[axes, channels + 1], how often each channel lies along each axis. starts: the first
    of the axes whose sizes make the products of each layer.
    """

    sizes: np.ndarray
    starts: np.ndarray

    def of(self, sizes: np.ndarray) -> np.ndarray:
        """Returns the products, float64[...], for axes of sizes int[axes, ...]."""
        each = np.multiply.reduceat(sizes.astype(np.float64), self.starts, axis=0)
        return each.sum(0)


def relative(scores: np.ndarray) -> np.ndarray:
    """Returns each score by the mean of those that are not lower: what is left when it goes.

    Args:
      scores: float64[C], >= 0.

    Returns:
      float64[C] in [0, 1], in the order of the scores; 1 for the highest, 0 where the mean is 0.

    Example:
      >>> relative(np.array([1.0, 8.0, 0.0, 3.0])).tolist()
      [0.25, 1.0, 0.0, 0.545...]
    """
    order = np.argsort(scores, kind="stable")
    upwards = scores[order]
    means = np.cumsum(upwards[::-1])[::-1] / np.arange(len(scores), 0, -1)
    found = np.empty(len(scores))
    ratios = np.divide(upwards, means, out=np.zeros(len(scores)), where=means > 0)
    found[order] = np.maximum.accumulate(ratios)
    return found


def units(
    groups: Sequence[Group],
    scores: Sequence[np.ndarray],
    *,
    scope: str,
    round_to: int,
    least: int,
) -> list[Unit]:
    """Returns what may go, the lowest first.

    Args:
      groups: of channels.
      scores: float[C] of each group's channels.
      scope: "global": units are ranked by their mean score; "uniform": by the fraction of their
        group that is gone with them.
      round_to: what is left of a group is a multiple of it.
      least: and no less than this.
    """
    found = []
    for g, (group, score) in enumerate(zip(groups, scores, strict=True)):
        count, highest = len(score), -np.inf
        order = np.argsort(score, kind="stable")
        lefts = range((count - 1) // round_to * round_to, least - 1, -round_to)
        gone = [0, *(count - left for left in lefts if left > 0)]
        for start, end in itertools.pairwise(gone):
            mine = order[start:end]
            highest = max(highest, float(score[mine].mean()))  # no unit before those below it
            rank = highest if scope == "global" else end / count
            found.append(Unit(rank, g, group.channels[mine]))
    return sorted(found, key=lambda unit: unit.rank)  # stable: of equal ones in order


def at_most(ordered: Sequence[Unit], count: int) -> list[Unit]:
    """Returns the lowest units that hold no more than `count` channels together."""
    chosen, closed = [], set()
    for unit in ordered:
        if unit.group not in closed and len(unit.channels) <= count:
            chosen.append(unit)
            count -= len(unit.channels)
        else:
            closed.add(unit.group)
    return chosen


def down_to(ordered: Sequence[Unit], products: Products, fraction: float) -> list[Unit]:
    """Returns the lowest units without which no more than a fraction of the products is left.

    Those of them that the last one makes unnecessary stay, the highest first.

    Raises:
      ConfigError: if all units together are too few.
    """
    every = products.sizes.sum(1)
    less = [products.sizes[:, unit.channels].sum(1) for unit in ordered]
    steps = np.cumsum(np.stack([np.zeros_like(every), *less], 1), 1)
    left = products.of(every[:, None] - steps)
    limit = left[0] * fraction * (1 + 1e-12)
    if left[-1] > limit:
        raise ConfigError(
            f"macs={fraction} cannot be reached: {left[-1] / left[0]:.3g} is what is left if each "
            "group keeps its least; lower round_to or least, or select more"
        )
    count = int(np.argmax(left <= limit))
    sizes, kept = every - steps[:, count], []
    closed = {ordered[count - 1].group} if count else set()
    for i in reversed(range(count)):
        unit = ordered[i]
        if unit.group not in closed and products.of(sizes + less[i]) <= limit:
            sizes = sizes + less[i]
        else:
            closed.add(unit.group)
            kept.append(unit)
    return kept[::-1]


def products(model: Model, channels: Channels) -> Products:
    """Returns how the products of a network's layers follow from its channels."""
    rows, starts = [], []
    for op in model.graph.ops:
        if op.kind not in LAYERS or any(i not in channels.axes for i in op.inputs):
            continue
        kernel = channels.axes[op.inputs[1]]
        axes = KINDS[op.kind].layer(op, 1, len(kernel))
        summed = [kernel[a] for a in (*(b for _, b in axes.summed), *axes.taps)]
        starts.append(len(rows))
        rows += [*channels.axes[op.output], *summed]
    sizes = np.stack([np.bincount(along, minlength=channels.count) for along in rows])
    return Products(sizes, np.array(starts))
