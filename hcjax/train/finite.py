"""Errors for a loss or a parameter that is infinite or NaN."""

from __future__ import annotations

from typing import Any

import numpy as np

from hcjax import trees
from hcjax.errors import DivergedError


def diverged(where: str, sums: dict) -> DivergedError:
    """Builds the error that names the non-finite sums and suggests remedies."""
    wrong = [k for k, v in sums.items() if not np.isfinite(v)]
    return DivergedError(
        f"{', '.join(wrong) or 'a parameter'} is infinite or NaN in {where}; try a lower learning "
        f"rate, a warm-up, gradient clipping (optim.clip_norm), or float32 instead of bfloat16; "
        f"the checkpoints before that are intact"
    )


def check(params: Any, step: int) -> None:
    """Raises DivergedError for the first parameter that is not finite after a step."""
    for path, leaf in trees.paths(params):
        if not np.all(np.isfinite(np.asarray(leaf, np.float32))):
            raise diverged(f"{path} after step {step}", {})
