"""Preemption: being told to stop, by SIGTERM, so that the loop can save and end cleanly."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager

import jax
from jax.experimental import multihost_utils


@contextmanager
def notice():
    """Catches SIGTERM; gives a function of the step: whether to stop after it, as one was told."""
    if jax.process_count() > 1:
        # jax.distributed catches it too, and finds a step at which all processes can stop
        yield multihost_utils.reached_preemption_sync_point
        return
    came = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield lambda step: False  # only the main thread may handle signals
        return
    before = signal.signal(signal.SIGTERM, lambda *_: came.set())
    try:
        yield lambda step: came.is_set()
    finally:
        signal.signal(signal.SIGTERM, before)
