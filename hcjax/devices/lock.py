"""A lock, so that one run at a time trains in a workdir; the system frees it with the process."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path

import jax

from hcjax.devices import hosts
from hcjax.errors import CheckpointError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"


@contextmanager
def held(workdir: Path):
    """Locks the workdir for this run; readers need no lock.

    Args:
      workdir: created if missing.

    Raises:
      CheckpointError: in every process of the run, if another run holds it.

    Note:
      Process 0 holds the lock for all, but all must call this. There is no lock on Windows and on
      file systems without locks.
    """
    file = None
    if jax.process_index() == 0 and fcntl is not None:
        file = _open(workdir)
    try:
        holder = max(hosts.gather(0 if file is None else _take(file)))
        if holder:
            raise CheckpointError(
                f"another process ({holder}) is training in {workdir}; wait until it ends, stop "
                f"it, or choose another --workdir"
            )
        yield
    finally:
        if file is not None:
            file.close()


def _open(workdir: Path):
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        return open(workdir / LOCK, "a+")  # not emptied: it names the holder
    except OSError as error:
        raise CheckpointError(f"cannot write in {workdir}: {error.strerror}") from error


def _take(file) -> int:
    """Locks the file and writes this process's id into it; returns another holder's id, or 0."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        return int(file.read() or -1)  # it may not have written its number yet
    except OSError:
        return 0  # a file system without locks
    file.truncate(0)
    file.write(str(os.getpid()))
    file.flush()
    return 0
