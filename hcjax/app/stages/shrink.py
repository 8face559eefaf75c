"""Stage `shrink`: takes whole channels out, and trains after that."""

from __future__ import annotations

from functools import partial

from hcjax.app.stages.work import Made, check_idle, made, one_of
from hcjax.prune.structured.shrink import shrink


def shrunk(
    *,
    keep: float | None = None,
    macs: float | None = None,
    round_to: int = 1,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network with whole channels gone; and, with epochs, trained after that."""
    one_of("shrink", keep=keep, macs=macs)
    check_idle("shrink", epochs, learning_rate=learning_rate)
    make = partial(shrink, keep=keep, macs=macs, round_to=round_to)
    return made("shrunk", make, epochs=epochs, learning_rate=learning_rate)
