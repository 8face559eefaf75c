"""What a run starts from when it does not start anew: the arrays of a finished run, where they fit.

In: a workdir and new parameters. Out: the parameters to train, and lines that say what was taken.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from hcjax import trees
from hcjax.errors import ConfigError
from hcjax.models import Network
from hcjax.runs.workdir import load


def head_of(network_for: Callable[[int], Network], num_classes: int) -> set[str]:
    """Returns the paths of the arrays whose shape depends on the number of classes.

    Args:
      network_for: number of classes -> the network. num_classes: of this run.
    """

    def shapes(count):
        network = network_for(count)
        params, state = jax.eval_shape(network.init, jax.random.key(0))
        tree = {"params": params, "state": state}
        return {path: leaf.shape for path, leaf in trees.paths(tree)}

    ours, other = shapes(num_classes), shapes(num_classes + 1)
    return {path for path in ours if ours[path] != other[path]}


def taken_over(
    workdir: str, params: Any, state: Any, head: set[str], class_names: tuple[str, ...]
) -> tuple[Any, Any, list[str]]:
    """Returns (params, state, notes) with the arrays of a finished run where they fit.

    Args:
      workdir: of that run.
      params, state: new ones; arrays of other shapes stay as they are here.
      head: paths of arrays that stay, too, if the run had other classes.
      class_names: of this run.

    Raises:
      ConfigError: if fewer than half of the arrays fit.
    """
    source = load(workdir)
    theirs = trees.by_path({"params": source.params, "state": source.state})
    ours = trees.paths({"params": params, "state": state})
    fits = [p in theirs and np.shape(theirs[p]) == leaf.shape for p, leaf in ours]
    if sum(fits) * 2 < len(fits):
        raise ConfigError(
            f"init_from={workdir} is another network: only {sum(fits)} of {len(fits)} arrays have "
            f"a counterpart of the same name and shape"
        )
    if source.class_names != class_names:
        fits = [ok and path not in head for ok, (path, _) in zip(fits, ours, strict=True)]
    taken = trees.counted([leaf for _, leaf in ours], fits)
    notes = [f"init_from {workdir}: {taken} are taken over"] + [
        f"init_from: {path} {list(leaf.shape)} starts anew"
        for (path, leaf), ok in zip(ours, fits, strict=True) if not ok
    ]  # fmt: skip
    leaves = [theirs[p] if ok else leaf for (p, leaf), ok in zip(ours, fits, strict=True)]
    tree = jax.tree.unflatten(jax.tree.structure({"params": params, "state": state}), leaves)
    return tree["params"], tree["state"], notes
