"""Stage `trim`: takes out the channels that pruning has emptied."""

from __future__ import annotations

from hcjax.app.stages.work import Outputs, outputs
from hcjax.prune.structured.trim import trim


def stage() -> Outputs:
    """Returns the network without the channels that pruning has emptied."""
    return outputs("trimmed", trim, epochs=0)
