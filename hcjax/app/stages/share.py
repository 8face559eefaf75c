"""Stage `share`: leaves each kernel a codebook of few different weights, and trains them."""

from __future__ import annotations

from functools import partial

from hcjax.app.stages.work import Outputs, check_idle, outputs
from hcjax.errors import ConfigError
from hcjax.quantize.codebook import share


def stage(
    *,
    clusters: int = 16,
    epochs: float = 0.0,
    learning_rate: float | None = None,
) -> Outputs:
    """Returns the network with few different weights in each kernel; and with these trained."""
    if clusters < 1:
        raise ConfigError(f"config.share.clusters must be >= 1, got {clusters}")
    check_idle("share", epochs, learning_rate=learning_rate)
    make = partial(share, clusters=clusters)
    return outputs("shared", make, epochs=epochs, learning_rate=learning_rate)
