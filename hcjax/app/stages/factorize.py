"""Stage `factorize`: replaces layers by thinner ones in a row, and trains after that."""

from __future__ import annotations

from functools import partial

from hcjax.app.stages.work import Outputs, check_idle, one_of, outputs
from hcjax.lowrank.factorize import factorize


def stage(
    *,
    rank: int | None = None,
    energy: float | None = None,
    macs: float | None = None,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Outputs:
    """Returns the network with thinner layers in a layer's place; and, with epochs, trained."""
    one_of("factorize", rank=rank, energy=energy, macs=macs)
    check_idle("factorize", epochs, learning_rate=learning_rate)
    make = partial(factorize, rank=rank, energy=energy, macs=macs)
    return outputs("factorized", make, epochs=epochs, learning_rate=learning_rate)
