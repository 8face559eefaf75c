"""`pick`: chooses each layer's sparsity, or bits, under one budget for the whole network."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from hcjax.errors import ConfigError
from hcjax.search.levels import CHANGES
from hcjax.search.sensitivity import KernelSensitivity, Sensitivity


def pick(
    analysis: Sensitivity,
    *,
    accuracy: float | None = None,
    size: float | None = None,
    macs: float | None = None,
) -> dict[str, float]:
    """Chooses a compression level for each layer, under a budget of accuracy, size or MACs.

    Greedy: all layers start at their first level. Each move takes the layer with the least

        (increase of nll) / (decrease of size, or of MACs)

    to a stronger level, on the lower convex hull of that layer's curve. The increases of several
    layers are assumed to add up. With a budget of

    - size or macs: chooses the state of the smallest increase among those within the budget;
    - accuracy: compresses by size, and chooses the last state whose measured accuracy, with all
      layers compressed together, is high enough (by bisection). Then goes on with single layers as
      long as the accuracy stays high enough.

    Args:
      analysis: from `sensitivity`.
      accuracy: the lowest accuracy allowed, in (0, 1], on the images of `analysis`.
      size: the largest size of all kernels, as a fraction of their float32 size, in (0, 1]. Zeros
        have size 0; indices of the other weights are not counted.
      macs: the largest number of MACs, as a fraction, in (0, 1]. A MAC with a zero weight counts
        0, one with a weight of b bits b / 32; the measured speed may differ.

    Returns:
      {pattern of a kernel's path: sparsity}, for `prune.masks(scope=...)`, or {pattern of a layer's
      name: bits}, for `fake_quantize(bits=...)`. Special characters of regular expressions are
      escaped in the model's names.

    Raises:
      ConfigError: unless exactly one budget is given, or if it cannot be met; the message then
        gives the nearest that can.

    Note:
      Nothing is trained here. With fine-tuning afterwards, stronger levels are often possible.

    Reference:
      Everett, "Generalized Lagrange Multiplier Method", 1963, and the greedy algorithm for the
      multiple-choice knapsack problem of Sinha and Zoltners, 1979: optimal at the budgets that its
      own moves reach, if the increases add up.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import trace
      >>> from hcjax.search.sensitivity import sensitivity
      >>> images, labels = jnp.array([[3.0, 0.0], [0.0, 1.0]]), jnp.array([0, 1])
      >>> params = {"w": jnp.array([[1.0, 0.0], [0.0, 0.2]])}
      >>> model = trace(lambda params, x: x @ params["w"], params, images)
      >>> pick(sensitivity(model, images, labels, levels=(0.0, 0.5, 0.75)), accuracy=0.9)
      {'w': 0.5}
    """
    budgets = {"accuracy": accuracy, "size": size, "macs": macs}
    given = {name: budget for name, budget in budgets.items() if budget is not None}
    if len(given) != 1 or not 0 < next(iter(given.values())) <= 1:
        raise ConfigError(
            f"one of accuracy, size and macs is needed, in (0, 1], got {given or 'none'}"
        )
    ((budget, limit),) = given.items()
    unit = "macs" if budget == "macs" else "size"
    left = [CHANGES[analysis.against].left(level) for level in analysis.levels]
    # bits are chosen for a layer, which may have several kernels
    rows: dict[str, list[KernelSensitivity]] = {}
    for row in analysis.rows:
        rows.setdefault(row.path if analysis.against == "sparsity" else row.layer, []).append(row)
    full_costs = [sum(getattr(row, unit) for row in layer) for layer in rows.values()]
    costs = [[fraction * full for fraction in left] for full in full_costs]
    losses = [[sum(nlls) for nlls in zip(*(r.nll for r in layer), strict=True)]
              for layer in rows.values()]  # fmt: skip
    moves = _moves(costs, losses)
    if budget == "accuracy":
        levels = _strongest(analysis, rows, moves, limit)
    else:
        states = [_after(moves[:i], len(costs)) for i in range(len(moves) + 1)]
        fractions = [_total(costs, state) / sum(full_costs) for state in states]
        within = [s for s, fraction in zip(states, fractions, strict=True) if fraction <= limit]
        if not within:
            raise ConfigError(
                f"{budget}={limit} cannot be met: at the strongest levels {fractions[-1]:.4f} is "
                "left"
            )
        levels = min(within, key=lambda state: _total(losses, state))
    return {re.escape(n): analysis.levels[i] for n, i in zip(rows, levels, strict=True)}


def _moves(costs: Sequence[Sequence[float]], losses: Sequence[Sequence[float]]) -> list[tuple]:
    """Lists the moves (layer, its next level), as indices, by their loss per saving.

    Args:
      costs: of each layer at each level, falling along a row. losses: likewise.
    """
    moves = []
    for layer, (cost, loss) in enumerate(zip(costs, losses, strict=True)):
        at, slope = 0, -math.inf
        while at < len(cost) - 1:
            stronger = range(at + 1, len(cost))
            lowest, at = min(((loss[j] - loss[at]) / (cost[at] - cost[j]), j) for j in stronger)
            slope = max(slope, lowest)  # rounding must not change a layer's order
            moves.append((slope, layer, at))
    return [(layer, at) for _, layer, at in sorted(moves)]


def _after(moves: Sequence[tuple], layers: int) -> list[int]:
    """Gives the level of each layer after some moves, as an index."""
    levels = dict(moves)  # the last move of each layer counts
    return [levels.get(layer, 0) for layer in range(layers)]


def _total(table: Sequence[Sequence[float]], levels: Sequence[int]) -> float:
    return sum(row[level] for row, level in zip(table, levels, strict=True))


def _strongest(analysis: Sensitivity, rows: dict, moves: list[tuple], accuracy: float) -> list[int]:
    """Gives the level of each layer after as many moves as the accuracy allows, measured."""

    def measured(moves):
        indices = dict(zip(rows, _after(moves, len(rows)), strict=True))
        levels = {row.path: analysis.levels[indices[name]] for name in rows for row in rows[name]}
        return analysis.measure([levels[row.path] for row in analysis.rows])[0]

    mildest = measured([])
    if mildest < accuracy:
        raise ConfigError(
            f"accuracy={accuracy} cannot be met: at the mildest levels it is {mildest}"
        )
    good, bad = 0, len(moves) + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if measured(moves[:middle]) >= accuracy else (good, middle)
    accepted, finished = moves[:good], set()
    for layer, level in moves[good:]:
        if layer not in finished and measured([*accepted, (layer, level)]) >= accuracy:
            accepted = [*accepted, (layer, level)]
        else:
            finished.add(layer)
    return _after(accepted, len(rows))
