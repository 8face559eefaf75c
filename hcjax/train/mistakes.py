"""The examples a network got most wrong, over all hosts."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def worst(each: dict, count: int = 32) -> dict:
    """Returns the `count` misclassified examples with the largest loss, the worst first.

    Args:
      each: of an Evaluation: arrays [n] of this host's examples, with label, prediction and loss.
      count: at most so many, >= 1.

    Returns:
      dict of arrays [m], m <= count, with the keys of `each`; the same on every host.

    Note:
      With several processes all of them must call it.

    Example:
      >>> each = {"label": [0, 1, 1], "prediction": [1, 0, 1], "loss": [2.0, 3.0, 0.1]}
      >>> worst({k: np.array(v) for k, v in each.items()}, 1)["loss"].tolist()
      [3.0]
    """
    found = _order(each, count)
    if jax.process_count() > 1:
        short = count - len(found["loss"])  # every host sends as many: padded with right ones
        padded = {k: np.pad(v, (0, short)) for k, v in found.items()}
        gathered = multihost_utils.process_allgather(padded)
        found = _order({k: np.asarray(v).reshape(-1) for k, v in gathered.items()}, count)
    return found


def _order(each: dict, count: int) -> dict:
    wrong = np.flatnonzero(each["prediction"] != each["label"])
    rows = wrong[np.argsort(-each["loss"][wrong], kind="stable")][:count]
    return {k: v[rows] for k, v in each.items()}
