"""Masks: activations in which a constant such as -1e9 stands for "never", as in attention.

One scale cannot hold both -1e9 and the numbers that count, so these activations stay in float.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from hcjax.graph.constants import trained_numbers
from hcjax.graph.model import Model, Op
from hcjax.graph.ops.kind import LAYER
from hcjax.graph.ops.table import family
from hcjax.quantize.calibration.thresholds import BINS

_NEVER = 50.0  # a constant of at most -50 is a mask: exp(-50) is 0 beside any other term
_GAP = 0.4  # of the range of a masked value holds nothing


def constants(model: Model, ops: Sequence[Op], known: Mapping[int, Any]) -> dict[int, float]:
    """Returns number -> the greatest constant that is part of an activation, if it is a mask's.

    Only constants that no parameter changes count, from the last layer on.

    Args:
      model: whose graph.
      ops, known: its ops that need a batch, and the values of its constants.
    """
    trained = trained_numbers(model)
    found: dict[int, float] = {}

    def magnitude(number: int) -> float:
        value = known.get(number)
        if value is None or number in trained or not jnp.issubdtype(value.dtype, jnp.floating):
            return found.get(number, 0.0)
        return float(np.abs(np.asarray(value, np.float32)).max(initial=0))

    for op in ops:
        greatest = 0.0 if family(op) == LAYER else max(map(magnitude, op.inputs), default=0.0)
        if greatest >= _NEVER and op.output not in known:
            found |= dict.fromkeys(op.outputs, greatest)
    return found


def has_gap(counts: np.ndarray, low: float, high: float, constant: float) -> bool:
    """Returns whether numbers near a constant are far from all others, with nothing between.

    counts: of magnitudes. A positive one must be larger: pixels may be 0 and 255.
    """
    least = _NEVER if -low > high else _NEVER**2
    if not least <= max(-low, high) <= 4 * constant:
        return False
    used = np.flatnonzero(counts)
    return bool(len(used) > 1 and np.diff(used).max() >= _GAP * BINS)
