"""The order in which channels are removed, and how many of them a budget requires."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph.coupling.channels import Channels
from hcjax.graph.model import LAYERS, Model
from hcjax.graph.ops import KINDS

SCOPES = ("global", "uniform")


class Unit(NamedTuple):
    """Channels of one group that are removed together, after those of its lower units."""

    rank: float
    group: int
    channels: np.ndarray


class Products(NamedTuple):
    """The MACs of a network's layers, as a function of its channels.

    Attributes:
      sizes: int64[axes, channels + 1], how often each channel lies along each axis.
      starts: index of each layer's first axis; its MACs are the product of its axes' sizes.
    """

    sizes: np.ndarray
    starts: np.ndarray

    def of(self, sizes: np.ndarray) -> np.ndarray:
        """Computes the MACs, float64[...], for axes of sizes int[axes, ...]."""
        each = np.multiply.reduceat(sizes.astype(np.float64), self.starts, axis=0)
        return each.sum(0)

    def saved(self, removed: np.ndarray) -> np.ndarray:
        """Computes how many MACs each channel's removal saves, >= 1, float64[channels + 1].

        Args:
          removed: bool[channels + 1], channels that are gone already.
        """
        sizes = self.sizes[:, ~removed].sum(1)
        return np.maximum(self.of(sizes) - self.of(sizes[:, None] - self.sizes), 1)


def units(
    groups: Sequence[np.ndarray],
    scores: Sequence[np.ndarray],
    *,
    scope: str,
    round_to: int,
    floors: Sequence[int],
) -> list[Unit]:
    """Ranks the units that may be removed, the lowest first.

    Args:
      groups: int[C], the channels of each group, that of equal scores to go first first.
      scores: float[C] of each group's channels.
      scope: "global": ranks units by their mean score. "uniform": by the fraction of their group
        that is removed together with them.
      round_to: the number of channels that remain in a group is a multiple of it.
      floors: the smallest number that may remain in each group.
    """
    ranked = []
    for g, (group, score, floor) in enumerate(zip(groups, scores, floors, strict=True)):
        count, highest = len(score), -np.inf
        order = np.argsort(score, kind="stable")
        remaining = range((count - 1) // round_to * round_to, floor - 1, -round_to)
        removed = [0, *(count - n for n in remaining if n > 0)]
        for start, end in itertools.pairwise(removed):
            indices = order[start:end]
            highest = max(highest, float(score[indices].mean()))  # no unit before a lower one
            rank = highest if scope == "global" else end / count
            ranked.append(Unit(rank, g, group[indices]))
    return sorted(ranked, key=lambda unit: unit.rank)  # stable: equal ranks keep their order


def at_most(ordered: Sequence[Unit], count: int) -> list[Unit]:
    """Chooses the lowest units with no more than `count` channels together."""
    chosen, closed = [], set()
    for unit in ordered:
        if unit.group not in closed and len(unit.channels) <= count:
            chosen.append(unit)
            count -= len(unit.channels)
        else:
            closed.add(unit.group)
    return chosen


def down_to(ordered: Sequence[Unit], products: Products, fraction: float) -> list[Unit]:
    """Chooses the lowest units without which no more than a fraction of the MACs remains.

    Then it gives back units that the last one made unnecessary, the highest first.

    Raises:
      ConfigError: if the removal of all units is not enough.
    """
    sizes = products.sizes.sum(1)
    removed = [products.sizes[:, unit.channels].sum(1) for unit in ordered]
    totals = np.cumsum(np.stack([np.zeros_like(sizes), *removed], 1), 1)
    macs = products.of(sizes[:, None] - totals)
    limit = macs[0] * fraction * (1 + 1e-12)
    if macs[-1] > limit:
        raise ConfigError(
            f"macs={fraction} cannot be reached: {macs[-1] / macs[0]:.3g} is what is left if each "
            "group keeps its least; lower round_to or least, or select more"
        )
    count = int(np.argmax(macs <= limit))
    sizes, chosen = sizes - totals[:, count], []
    closed = {ordered[count - 1].group} if count else set()
    for i in reversed(range(count)):
        unit = ordered[i]
        if unit.group not in closed and products.of(sizes + removed[i]) <= limit:
            sizes = sizes + removed[i]
        else:
            closed.add(unit.group)
            chosen.append(unit)
    return chosen[::-1]


def products(model: Model, channels: Channels) -> Products:
    """Reads the sizes that determine the MACs of a network's layers."""
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
