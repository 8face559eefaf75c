"""Preemption: SIGTERM asks the loop to save a checkpoint and end cleanly."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


@contextmanager
def catch_sigterm():
    """Catches SIGTERM and yields `should_stop(step)`."""
    if jax.process_count() > 1:
        # jax.distributed catches it too, and finds a step at which all processes can stop
        yield multihost_utils.reached_preemption_sync_point
        return
    received = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: received.set())
    try:
        yield lambda step: received.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
