"""Stage `shrink`: takes whole channels out, and trains after that."""

from __future__ import annotations

from functools import partial

from hcjax.app.stages.work import Outputs, check_idle, one_of, outputs
from hcjax.prune.structured.shrink import shrink


def stage(
    *,
    keep: float | None = None,
    macs: float | None = None,
    round_to: int = 1,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Outputs:
    """Returns the network with whole channels gone; and, with epochs, trained after that."""
    one_of("shrink", keep=keep, macs=macs)
    check_idle("shrink", epochs, learning_rate=learning_rate)
    make = partial(shrink, keep=keep, macs=macs, round_to=round_to)
    return outputs("shrunk", make, epochs=epochs, learning_rate=learning_rate)
