"""Stage `share`: leaves each kernel a codebook of few different weights, and trains them."""

from __future__ import annotations

from functools import partial

from hcjax.app.stages.work import Made, check_idle, made
from hcjax.errors import ConfigError
from hcjax.quantize.codebook import share


def shared(
    *,
    clusters: int = 16,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Made:
    """Returns the network with few different weights in each kernel; and with these trained."""
    if clusters < 1:
        raise ConfigError(f"config.share.clusters must be >= 1, got {clusters}")
    check_idle("share", epochs, learning_rate=learning_rate)
    make = partial(share, clusters=clusters)
    return made("shared", make, epochs=epochs, learning_rate=learning_rate)
