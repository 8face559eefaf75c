"""What a server counts, in the text format of Prometheus; and how far its predictions drift."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
_WINDOW = 1000  # predictions that a drift score looks back at
_OFTEN = 100  # predictions after which it is computed anew


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own, named = {"registry": self.registry}, ["model", "version"]
        self.answers = Counter("hcjax_requests", "Answers by status.", ["status"], **own)
        text = "Seconds from a request's body to its answer."
        self.latency = Histogram("hcjax_latency_seconds", text, named, buckets=_SECONDS, **own)
        text = "Seconds in which a batch was computed."
        self.compute = Histogram("hcjax_compute_seconds", text, named, buckets=_SECONDS, **own)
        text = "Examples computed together."
        self.batch = Histogram("hcjax_batch_size", text, named, buckets=_ROWS, **own)
        self.queue = Gauge("hcjax_queue_examples", "Examples that wait.", named, **own)
        text = "Predictions of each class."
        self.classes = Counter("hcjax_predictions", text, [*named, "class_name"], **own)
        text = "Population stability index of the last 1000 predictions; above 0.2 they differ."
        self.drift = Gauge("hcjax_drift_score", text, named, **own)

    def text(self) -> bytes:
        """Returns all of them as Prometheus reads them."""
        return generate_latest(self.registry)


class Predictions:
    """Counts the classes that one network predicts, and scores their drift.

    Args:
      metrics: of the server. name, version: of the network. class_names: K names. reference: the
        share of each class on known data, `about["class_shares"]`; None if that is not known.
    """

    def __init__(
        self,
        metrics: Metrics,
        name: str,
        version: str,
        class_names: Sequence[str],
        reference: Sequence[float] | None,
    ):
        self._counters = [metrics.classes.labels(name, version, each) for each in class_names]
        right = reference is not None and len(reference) == len(class_names)
        self._reference = np.asarray(reference, float) if right else None
        self._drift = metrics.drift.labels(name, version) if right else None
        self._last: deque[int] = deque(maxlen=_WINDOW)
        self._new = 0

    def count(self, outputs: np.ndarray) -> None:
        """Counts the most likely class of each row of logits [N, K]."""
        if outputs.ndim != 2 or outputs.shape[1] != len(self._counters):
            return
        for k in outputs.argmax(1).tolist():
            self._counters[k].inc()
            if self._reference is not None:
                self._last.append(k)
                self._new += 1
        if self._new >= _OFTEN:
            self._new = 0
            counts = np.bincount(self._last, minlength=len(self._counters))
            self._drift.set(stability_index(self._reference, counts))


def stability_index(reference: np.ndarray, counts: np.ndarray) -> float:
    """Returns the population stability index, sum over classes of (q - p) log(q / p).

    Args:
      reference: share p of each class, float[K] >= 0. counts: of each class now, [K], >= 0; its
        shares are q. Both are made at least 1e-4.

    Example:
      >>> float(stability_index(np.array([0.5, 0.5]), np.array([30, 30])))
      0.0
      >>> round(float(stability_index(np.array([0.5, 0.5]), np.array([90, 10]))), 2)
      0.88
    """
    p = np.maximum(reference / np.sum(reference), 1e-4)
    q = np.maximum(counts / max(np.sum(counts), 1), 1e-4)
    return np.sum((q - p) * np.log(q / p))
