"""The misclassified examples with the largest loss, over all hosts."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def worst(each: dict, count: int = 32) -> dict:
    """Returns the `count` misclassified examples with the largest loss, the worst first.

    Args:
      each: `each` of an Evaluation: arrays [n] of this host's examples.
      count: number of examples, >= 1.

    Returns:
      dict of arrays [m], m <= count, with the keys of `each`; the same on every host.

    Note:
      With several processes all of them must call it.

    Example:
      >>> each = {"label": [0, 1, 1], "prediction": [1, 0, 1], "loss": [2.0, 3.0, 0.1]}
      >>> worst({k: np.array(v) for k, v in each.items()}, 1)["loss"].tolist()
      [3.0]
    """
    mistakes = _order(each, count)
    if jax.process_count() > 1:
        # every host sends `count` examples, padded with correct ones
        short = count - len(mistakes["loss"])
        padded = {k: np.pad(v, (0, short)) for k, v in mistakes.items()}
        gathered = multihost_utils.process_allgather(padded)
        mistakes = _order({k: np.asarray(v).reshape(-1) for k, v in gathered.items()}, count)
    return mistakes


def _order(each: dict, count: int) -> dict:
    wrong = np.flatnonzero(each["prediction"] != each["label"])
    rows = wrong[np.argsort(-each["loss"][wrong], kind="stable")][:count]
    return {k: v[rows] for k, v in each.items()}
