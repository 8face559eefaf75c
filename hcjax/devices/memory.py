"""The memory that this process has had. Imports nothing of hcjax: other programs load this file."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

_STATUS = Path("/proc/self/status")


def peak_memory_bytes() -> int:
    """Returns the largest resident memory of this process so far, in bytes.

    It is Linux's `VmHWM`, which begins anew with a program. `ru_maxrss`, taken where there is none,
    is also that of the process that started this one, if that had more.

    Source:
      proc_pid_status(5), getrusage(2).

    Example:
      >>> peak_memory_bytes() > 2**20
      True
    """
    try:
        lines = _STATUS.read_text().splitlines()
        return 1024 * next(int(x.split()[1]) for x in lines if x.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024
