"""Examples with targets for measuring a Model, checked in one place."""

from __future__ import annotations

from numbers import Integral
from typing import Any

import jax
import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph import interface
from hcjax.graph.model import Model
from hcjax.tasks.classification import classification
from hcjax.tasks.task import Task


def checked(
    model: Model, inputs: Any, targets: Any, batch_size: int, task: Task = classification
) -> tuple[list[np.ndarray], Any]:
    """Checks examples and returns the flat arrays of all inputs, and the targets as arrays.

    Args:
      inputs: of the one input, or a tuple of several.
      targets: tree of arrays [N, ...]; labels of classification.
      task: what the targets are for.

    Raises:
      ConfigError: if there are no examples, the counts of inputs and targets differ, a label is not
        a whole number in [0, K) with K the number of logits, or batch_size is not one >= 1.

    Example:
      >>> from hcjax import trace
      >>> model = trace(lambda w, x: x @ w, np.ones((3, 2)), np.ones((1, 3)))
      >>> checked(model, np.ones((4, 3)), [0, 1, 1, 2], 4)
      Traceback (most recent call last):
      hcjax.errors.ConfigError: labels must be whole numbers in [0, 2), the classes; got 2
    """
    arrays = model.arrays(inputs)
    targets = jax.tree.map(np.asarray, targets, is_leaf=lambda x: isinstance(x, list))
    count = interface.count(model.inputs, arrays)
    counts = {np.shape(x)[:1] for x in jax.tree.leaves(targets)}
    if counts != {(count,)} or (task is classification and np.ndim(targets) != 1):
        raise ConfigError(
            f"images [N, ...] and labels [N] of as many are needed, got {count} examples and "
            f"{[list(x.shape) for x in jax.tree.leaves(targets)]} of targets"
        )
    if not isinstance(batch_size, Integral) or batch_size < 1:
        raise ConfigError(f"batch_size must be a whole number >= 1, got {batch_size!r}")
    if task is not classification:
        return arrays, targets
    classes = model.classes
    integer = np.issubdtype(targets.dtype, np.integer)
    invalid = targets[(targets < 0) | (targets >= classes)] if integer else targets[:1]
    if len(invalid):
        raise ConfigError(
            f"labels must be whole numbers in [0, {classes}), the classes; got {invalid[0]!s}"
            + ("" if integer else f" of {targets.dtype}")
        )
    return arrays, targets
