"""Stages `trim`, `shrink` and `factorize`: layers of another shape, which compute less."""

from __future__ import annotations

from functools import partial

from hcjax.app.stages.work import Made, check_idle, made, one_of
from hcjax.lowrank.factorize import factorize
from hcjax.prune.structured.shrink import shrink
from hcjax.prune.structured.trim import trim


def trimmed() -> Made:
    """Returns the network without the channels that pruning has emptied."""
    return made("trimmed", trim, epochs=0)


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


def factorized(
    *,
    rank: int | None = None,
    energy: float | None = None,
    macs: float | None = None,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network with thinner layers in a layer's place; and, with epochs, trained."""
    one_of("factorize", rank=rank, energy=energy, macs=macs)
    check_idle("factorize", epochs, learning_rate=learning_rate)
    make = partial(factorize, rank=rank, energy=energy, macs=macs)
    return made("factorized", make, epochs=epochs, learning_rate=learning_rate)
