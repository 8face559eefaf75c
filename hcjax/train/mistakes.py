"""The examples with the largest loss, of labels the misclassified ones, over all hosts."""

from __future__ import annotations

import jax
import numpy as np
from jax.experimental import multihost_utils


def worst(each: dict, count: int = 32) -> dict:
    """Returns the `count` examples with the largest loss, the worst first.

    Args:
      each: `each` of an Evaluation: arrays [n, ...] of this host's examples. With "label" and
        "prediction" among them only the misclassified count.
      count: number of examples, >= 1.

    Returns:
      dict of arrays [m, ...], m <= count, with the keys of `each`; the same on every host.

    Note:
      With several processes all of them must call it.

    Example:
      >>> each = {"label": [0, 1, 1], "prediction": [1, 0, 1], "loss": [2.0, 3.0, 0.1]}
      >>> worst({k: np.array(v) for k, v in each.items()}, 1)["loss"].tolist()
      [3.0]
    """
    mistakes = _order(each, count)
    if jax.process_count() > 1:
        # every host sends `count` examples, padded with some of no loss at all
        short = count - len(mistakes["loss"])
        padded = {k: np.pad(v, [(0, short)] + [(0, 0)] * (v.ndim - 1)) for k, v in mistakes.items()}
        padded["loss"][count - short :] = -np.inf
        gathered = multihost_utils.process_allgather(padded)
        flat = {k: np.asarray(v).reshape(-1, *np.shape(v)[2:]) for k, v in gathered.items()}
        mistakes = _order(flat, count)
    return mistakes


def _order(each: dict, count: int) -> dict:
    bad = each["loss"] > -np.inf
    if "prediction" in each:
        bad &= each["prediction"] != each["label"]
    wrong = np.flatnonzero(bad)
    rows = wrong[np.argsort(-each["loss"][wrong], kind="stable")][:count]
    return {k: v[rows] for k, v in each.items()}
