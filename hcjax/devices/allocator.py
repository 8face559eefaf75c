"""The C library's allocator, told to keep what a training step gives back.

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
    """Tells the allocator, once and before devices start, to keep memory that is freed.

    Returns:
      Whether the C library has such settings: glibc has, musl and macOS have not.

    Note:
      For a command line's own process only: a library has no business doing this to its user.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    return all([mallopt(name, value) for name, value in SETTINGS.items()])
