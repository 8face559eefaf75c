"""`pick`: each layer's sparsity, or bits, under one budget for the whole network."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from hcjax.errors import ConfigError
from hcjax.search.levels import CHANGES
from hcjax.search.sensitivity import KernelSensitivity, Sensitivity


def pick(
    found: Sensitivity,
    *,
    accuracy: float | None = None,
    size: float | None = None,
    macs: float | None = None,
) -> dict[str, float]:
    """Returns a level for each layer: the mildest under a budget, or the strongest that still fits.

    Starts with every layer at its first level, and goes on, one layer at a time, to where the
    network's loss rises least for what is saved: (rise of nll) / (size or MACs saved), on the lower
    convex hull of each layer's curve, as if the rises of layers added up. Of these steps

    - size, macs: takes the one of the least rise, of those within the budget;
    - accuracy: takes the last (saving size) at which the network, all layers changed together, is
      measured to have it, found by halving; then further steps of single layers that leave it so.

    Args:
      found: from `sensitivity`.
      accuracy: the least that is wanted, a fraction, on the images of `found`.
      size: of all its kernels, as a fraction of what they are in float32, in (0, 1]; zeros count
        nothing, nor does where they are.
      macs: likewise of products; those with a weight that is zero count nothing, and one of b bits
        b / 32. That is no promise of speed.

    Returns:
      {pattern of a kernel's path: sparsity}, for `prune.masks(scope=...)`, or {pattern of a layer's
      name: bits}, for `fake_quantize(bits=...)`. Names are those of the model, escaped where they
      would mean something in a regular expression.

    Raises:
      ConfigError: unless exactly one budget is given, or if it cannot be met; then the message
        says what can be.

    Note:
      Nothing is trained. Where pruning, or training on integers, follows, more is possible.

    Reference:
      Everett, "Generalized Lagrange Multiplier Method", 1963, and the greedy algorithm for the
      multiple-choice knapsack problem of Sinha and Zoltners, 1979: optimal at the budgets that its
      own steps have, where the rises do add up.

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
    ((budget, most),) = given.items()
    of = "macs" if budget == "macs" else "size"
    left = [CHANGES[found.against].left(level) for level in found.levels]
    rows: dict[
        str, list[KernelSensitivity]
    ] = {}  # bits are a layer's, whose kernels may be several
    for row in found.rows:
        rows.setdefault(row.path if found.against == "sparsity" else row.layer, []).append(row)
    whole = [sum(getattr(row, of) for row in each) for each in rows.values()]
    costs = [[part * all_of_it for part in left] for all_of_it in whole]
    harms = [[sum(at) for at in zip(*(r.nll for r in each), strict=True)] for each in rows.values()]
    moves = _moves(costs, harms)
    if budget == "accuracy":
        chosen = _strongest(found, rows, moves, most)
    else:
        steps = [_after(moves[:i], len(costs)) for i in range(len(moves) + 1)]
        parts = [_total(costs, step) / sum(whole) for step in steps]
        within = [step for step, part in zip(steps, parts, strict=True) if part <= most]
        if not within:
            raise ConfigError(
                f"{budget}={most} cannot be met: at the strongest levels {parts[-1]:.4f} is left"
            )
        chosen = min(within, key=lambda step: _total(harms, step))
    return {re.escape(n): found.levels[i] for n, i in zip(rows, chosen, strict=True)}


def _moves(costs: Sequence[Sequence[float]], harms: Sequence[Sequence[float]]) -> list[tuple]:
    """Returns (layer, its next level) as indices, in order; costs fall along a row."""
    moves = []
    for layer, (cost, harm) in enumerate(zip(costs, harms, strict=True)):
        at, rate = 0, -math.inf
        while at < len(cost) - 1:
            further = range(at + 1, len(cost))
            lowest, at = min(((harm[j] - harm[at]) / (cost[at] - cost[j]), j) for j in further)
            rate = max(rate, lowest)  # in order, whatever rounding says
            moves.append((rate, layer, at))
    return [(layer, at) for _, layer, at in sorted(moves)]


def _after(moves: Sequence[tuple], layers: int) -> list[int]:
    """Returns the level of each layer after some moves."""
    levels = dict(moves)  # the last of each layer counts
    return [levels.get(layer, 0) for layer in range(layers)]


def _total(table: Sequence[Sequence[float]], levels: Sequence[int]) -> float:
    return sum(row[level] for row, level in zip(table, levels, strict=True))


def _strongest(found: Sensitivity, rows: dict, moves: list[tuple], accuracy: float) -> list[int]:
    """Returns the level of each layer after as many moves as leave an accuracy, measured."""

    def measured(moves):
        chosen = dict(zip(rows, _after(moves, len(rows)), strict=True))
        each = {row.path: found.levels[chosen[name]] for name in rows for row in rows[name]}
        return found.measure([each[row.path] for row in found.rows])[0]

    least = measured([])
    if least < accuracy:
        raise ConfigError(f"accuracy={accuracy} cannot be met: at the mildest levels it is {least}")
    good, bad = 0, len(moves) + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        good, bad = (middle, bad) if measured(moves[:middle]) >= accuracy else (good, middle)
    taken, done = moves[:good], set()
    for layer, level in moves[good:]:
        if layer not in done and measured([*taken, (layer, level)]) >= accuracy:
            taken = [*taken, (layer, level)]
        else:
            done.add(layer)
    return _after(taken, len(rows))
