"""Stages: what is done to a trained network, one after another.

A stage takes its options, checks them, and returns named functions `(work, start, before) ->
Model`: of what all stages share, the Model that the stage begins with, and the one made before.
The last one's is what the next stage begins with.
"""

from __future__ import annotations

from collections.abc import Callable

from hcjax.app.stages.layers import factorized, shrunk, trimmed
from hcjax.app.stages.quantized import quantized
from hcjax.app.stages.students import distilled
from hcjax.app.stages.weights import pruned, shared
from hcjax.app.stages.work import Made, Work

__all__ = ["STAGES", "Made", "Work"]

# name -> stage
STAGES: dict[str, Callable[..., Made]] = {
    "distill": distilled,
    "factorize": factorized,
    "prune": pruned,
    "quantize": quantized,
    "share": shared,
    "shrink": shrunk,
    "trim": trimmed,
}
