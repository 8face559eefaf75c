"""The last answers of one network, against the reference that its file carries."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import reduce
from typing import Any

import numpy as np

from hcjax import monitor
from hcjax.errors import ConfigError, DataError
from hcjax.monitor.drift import Drift

WINDOW = 1000  # examples that are compared, about
_PART = 100  # examples that are counted together, which takes no longer than one
_BYTES = 1 << 20  # that are kept until then


class Watch:
    """A window over the answers of a classifier of one input.

    Args:
      known: `about["reference"]`, as of `hcjax.monitor.reference`; of it what `features` computes.

    Raises:
      ConfigError: if it is no reference.
    """

    def __init__(self, known: Any):
        names = monitor.features(np.eye(2), np.eye(2))
        try:
            self._known = {name: known[name] for name in names if name in known}
            monitor.drift(self._known, {k: np.asarray(x["counts"]) for k, x in self._known.items()})
            monitor.count(self._known, names)
        except (DataError, KeyError, TypeError, ValueError) as error:
            text = 'about["reference"] must be one of hcjax.monitor.reference'
            raise ConfigError(f"{text}; found {str(known)[:100]}: {error}") from error
        self._parts: deque[dict[str, np.ndarray]] = deque(maxlen=WINDOW // _PART)
        self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
        self._rows = self._bytes = 0

    def add(self, inputs: np.ndarray, logits: np.ndarray) -> None:
        """Takes the inputs [N, ...] and the logits [N, K] of one request."""
        self._waiting.append((inputs, logits))
        self._rows += len(logits)
        self._bytes += inputs.nbytes
        if self._rows >= _PART or self._bytes >= _BYTES:
            self._count()

    def drift(self) -> dict[str, Drift]:
        """Compares the window; an empty dict while it has too few examples."""
        if not self._parts:
            return {}
        return monitor.drift(self._known, reduce(monitor.add, self._parts))

    def _count(self) -> None:
        inputs, logits = (np.concatenate(x) for x in zip(*self._waiting, strict=True))
        self._waiting, self._rows, self._bytes = [], 0, 0
        self._parts.append(monitor.count(self._known, monitor.features(logits, inputs)))


def text(watches: Mapping[tuple[str, str], Watch]) -> str:
    """Writes the drift of each (name, version) as Prometheus reads it."""
    found = [
        ({"model": name, "version": version}, watch.drift())
        for (name, version), watch in watches.items()
    ]
    return monitor.prometheus([each for each in found if each[1]])
