"""Stage `shrink`: takes whole channels out, refits the layers, and trains after that."""

from __future__ import annotations

from hcjax.app.stages.work import Outputs, check_idle, normalised, one_of
from hcjax.errors import ConfigError
from hcjax.prune.structured.refit import refit
from hcjax.prune.structured.shrink import shrink


def stage(
    *,
    keep: float | None = None,
    macs: float | None = None,
    round_to: int = 1,
    images: int = 512,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Outputs:
    """Returns the network with whole channels gone; and, with epochs, trained after that."""
    one_of("shrink", keep=keep, macs=macs)
    check_idle("shrink", epochs, learning_rate=learning_rate)
    if images < 0:
        raise ConfigError(f"config.shrink.images must be >= 0, got {images}")

    def make(work, start, before):
        size = {"keep": keep, "macs": macs, "round_to": round_to}
        if not images:
            return shrink(before, **size)
        shown = normalised(work.dataset, images)
        return refit(shrink(before, **size, images=shown), before, shown)

    def tuned(work, start, before):
        return work.tune(before, "shrunk-trained", epochs=epochs, learning_rate=learning_rate)

    return [("shrunk", make)] + ([("shrunk-trained", tuned)] if epochs else [])
