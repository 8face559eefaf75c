"""Stage `trim`: takes out the channels that pruning has emptied."""

from __future__ import annotations

from hcjax.app.stages.work import Made, made
from hcjax.prune.structured.trim import trim


def trimmed() -> Made:
    """Returns the network without the channels that pruning has emptied."""
    return made("trimmed", trim, epochs=0)
