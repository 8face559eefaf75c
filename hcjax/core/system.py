"""The machine that this process runs on: processor, threads, and where hcjax keeps things."""

from __future__ import annotations

import hashlib
import os
import platform as machine
from functools import cache
from pathlib import Path

import jax
import jaxlib


def base_folder() -> Path:
    """Returns the folder of all that hcjax keeps: `$XDG_CACHE_HOME/hcjax` or `~/.cache/hcjax`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hcjax"


def fingerprint() -> str:
    """Hashes jax, jaxlib and processor, on which compiled code depends, to 12 hex digits.

    Example:
      >>> len(fingerprint())
      12
    """
    parts = [jax.__version__, jaxlib.__version__, machine.machine(), _processor()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:12]


def threads() -> int:
    """Returns the number of processor threads that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def multiplies_int8_exactly() -> bool:
    """Tells whether the processor adds products of int8 in 32 bits (VNNI), not in 16, saturating.

    Example:
      >>> multiplies_int8_exactly() in (True, False)
      True
    """
    return bool({"avx512_vnni", "avx_vnni"} & set(_processor().split()))


@cache
def _processor() -> str:
    """Reads the processor's model and instruction flags, if the system lists them."""
    info = Path("/proc/cpuinfo")
    if not info.exists():
        return machine.processor()
    wanted = ("model name", "flags", "Features", "CPU implementer", "CPU part")
    lines = info.read_text().split("\n\n")[0].splitlines()
    return "\n".join(line for line in lines if line.startswith(wanted))
