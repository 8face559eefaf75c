"""Settings of the C library's allocator, to keep memory that a training step frees.

XLA:CPU frees a step's temporary memory at its end; glibc returns it to the system, and the next
step pays a page fault for every 4 KiB of it: 74,000 a step for ResNet-20, a fourth of its time.
"""

from __future__ import annotations

import ctypes

# mallopt's parameters, of glibc's malloc.h
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8
SETTINGS = {
    _ARENA_MAX: 1,  # one heap, whichever thread allocates
    _MMAP_MAX: 0,  # large blocks come from that heap too
    _TRIM_THRESHOLD: 2**31 - 1,  # bytes; the heap's end is not given back
    _TOP_PAD: 64 * 2**20,  # bytes by which it grows
}


def keep_memory() -> bool:
    """Makes the allocator keep freed memory; call it once, before devices start.

    Returns:
      Whether the C library has such settings: glibc has them, musl and macOS do not.

    Note:
      For the process of a command line only: a library must not change its user's allocator.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all([mallopt(name, value) for name, value in SETTINGS.items()])
