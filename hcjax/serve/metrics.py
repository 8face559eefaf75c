"""What a server counts, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter as Counts
from collections.abc import Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from hcjax.serve.watch import Watch, text

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)


class Metrics:
    """The counters of one server, in a registry of its own."""

    def __init__(self):
        self.registry = CollectorRegistry()
        own, named = {"registry": self.registry}, ["model", "version"]
        self.answers = Counter("hcjax_requests", "Answers by status.", ["status"], **own)
        help = "Seconds from a request's body to its answer."
        self.latency = Histogram("hcjax_latency_seconds", help, named, buckets=_SECONDS, **own)
        help = "Seconds in which a batch was computed."
        self.compute = Histogram("hcjax_compute_seconds", help, named, buckets=_SECONDS, **own)
        help = "Examples computed together."
        self.batch = Histogram("hcjax_batch_size", help, named, buckets=_ROWS, **own)
        self.queue = Gauge("hcjax_queue_examples", "Examples that wait.", named, **own)
        help = "Predictions of each class."
        self.classes = Counter("hcjax_predictions", help, [*named, "class_name"], **own)
        self.watches: dict[tuple[str, str], Watch] = {}  # (name, version) -> its window

    def text(self) -> bytes:
        """Returns all of them as Prometheus reads them."""
        return generate_latest(self.registry) + text(self.watches).encode()


class Predictions:
    """Counts the classes that one network predicts.

    Args:
      metrics: of the server. name, version: of the network. class_names: K names.
    """

    def __init__(self, metrics: Metrics, name: str, version: str, class_names: Sequence[str]):
        self._counters = [metrics.classes.labels(name, version, each) for each in class_names]

    def count(self, outputs: np.ndarray) -> None:
        """Counts the most likely class of each row of logits [N, K]."""
        if outputs.ndim != 2 or outputs.shape[1] != len(self._counters):
            return
        for k, n in Counts(outputs.argmax(1).tolist()).items():
            self._counters[k].inc(n)
