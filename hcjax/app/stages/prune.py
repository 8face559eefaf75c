"""Stage `prune`: sets the least important weights to zero, at once or while training."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import optax

from hcjax import prune, trees
from hcjax.app.stages.work import Outputs, by_layer, check_idle, one_of
from hcjax.core import registry
from hcjax.errors import ConfigError
from hcjax.prune.allocation import count
from hcjax.prune.patterns import checked


def stage(
    *,
    sparsity: float | None = None,
    method: str | None = None,
    scope: str | None = None,
    layers: Sequence[str] | None = None,
    n_of_m: Sequence[int] | None = None,
    block: Sequence[int] | None = None,
    select: Sequence[str] | None = None,
    ramp: float | None = None,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Outputs:
    """Returns the network with the smallest weights gone: at once, or more and more in training."""
    check_idle("prune", epochs, method=method, ramp=ramp, learning_rate=learning_rate)
    around = registry.choose("method", methods(), method or "gradual")
    ramp = 0.5 if ramp is None else ramp
    one_of("prune", sparsity=sparsity, layers=layers, n_of_m=n_of_m)
    if sparsity is None and scope:
        raise ConfigError(
            f"config.prune.scope {scope!r} needs config.prune.sparsity, to distribute"
        )
    if n_of_m and block:
        raise ConfigError(f"config.prune: give one of n_of_m {n_of_m} and block {block}")
    if sparsity is not None:
        count(sparsity, 1)  # refuses what is no sparsity, before anything is trained
    which = {
        "sparsity": sparsity,
        "scope": by_layer("prune.layers", layers, float) if layers else scope or "global",
        "structure": tuple(n_of_m) if n_of_m else prune.Block(tuple(block)) if block else None,
        "select": select or trees.kernels,
    }
    checked(which["structure"])

    def make(work, start, before):
        for line in matched(before.params, select, which["scope"]):
            work.say(line)
        steps = work.steps(epochs)
        if not steps:
            masks = prune.masks(before.params, **which)
            return before.replace(params=prune.apply(masks, before.params))
        end = max(1, round(ramp * steps))
        pruning = partial(around, begin=0, end=end, every=max(1, end // 100), **which)
        given = {"epochs": epochs, "learning_rate": learning_rate}
        return work.tune(before, "pruned", around=pruning, **given)

    return [("pruned", make)]


def matched(
    params: Any, select: Sequence[str] | None, layers: str | Mapping[str, float]
) -> list[str]:
    """Writes, a line each, what the patterns of the section select and how sparse that becomes.

    Args:
      params: of the network that is pruned.
      select: patterns of paths, or None.
      layers: pattern -> sparsity, the first match counts; a name says nothing here.

    Raises:
      ConfigError: if a pattern matches nothing.

    Example:
      >>> import numpy as np
      >>> params = {"a": np.zeros((4, 4)), "b": np.zeros((2, 2))}
      >>> print(*matched(params, None, {"a": 0.5, ".*": 0.9}), sep="\\n")
      prune.layers a=0.5: 1 of 2 arrays, 16 of 20 parameters
      prune.layers .*=0.9: 1 of 2 arrays, 4 of 20 parameters
    """
    lines = []
    chosen = trees.select(params, select) if select else trees.mask(params, trees.kernels)
    if select:
        lines.append(f"prune.select {', '.join(select)}: {trees.counted(params, chosen)}")
    left = dict(trees.paths(chosen))
    for pattern, sparsity in layers.items() if isinstance(layers, Mapping) else ():
        mine = {path for path, use in left.items() if use and re.fullmatch(pattern, path)}
        which = trees.mask(params, lambda path, _, mine=mine: path in mine)
        lines.append(f"prune.layers {pattern}={sparsity:g}: {trees.counted(params, which)}")
        left |= dict.fromkeys(mine, False)
    return lines


def methods() -> dict[str, Callable[..., optax.GradientTransformation]]:
    """Returns name -> (optimiser, **keywords of `prune.gradual`) -> optimiser that prunes.

    "gradual" prunes by magnitude; every other name is a score of `prune.SCORES`.
    """
    by_score = {name: partial(prune.scored, score=name) for name in prune.in_training()}

    def gradual(tx, **schedule):
        return optax.chain(tx, prune.gradual(**schedule))

    return by_score | {"gradual": gradual, "magnitude": gradual}
