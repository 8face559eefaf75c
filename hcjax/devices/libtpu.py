"""The TPU compiler on a machine without a TPU: its version, a lock, and silence.

The PyPI package `libtpu` holds it. Loaded where there is no TPU it prints harmless errors about
the metadata server, and two processes that load it at once collide on its lock file.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib import metadata

from hcjax.core import optional
from hcjax.errors import DependencyError

# Read by libtpu when it is loaded: skip the metadata server, and do not
# abort because another process, not one of ours, has it loaded.
_ENVIRONMENT = {"TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}


def version() -> str:
    """Returns the release of libtpu.

    Raises:
      DependencyError: if it is not installed, or is not of the releases that the installed jax pins
        (jaxlib cannot read the programs of all others), saying how to install the right one.
    """
    what = "--plan, which compiles with the TPU compiler (no TPU is needed, only Linux on x86-64),"
    optional.require("libtpu", extra="tpu", what=what)
    from packaging.specifiers import SpecifierSet

    try:
        found = metadata.version("libtpu")
    except metadata.PackageNotFoundError:
        found = None  # a nightly build, or files that no package owns
    if found is None or not SpecifierSet(pin()).contains(found, prereleases=True):
        jax = metadata.version("jax")
        raise DependencyError(
            f"--plan needs the libtpu that jax {jax} was made for, libtpu{pin()}, and found "
            f"libtpu {found or 'of no known release'}, whose programs this jaxlib may be unable to "
            f"read: pip install 'jax[tpu]=={jax}'"
        )
    return found


def pin() -> str:
    """Returns the releases of libtpu that the installed jax pins for TPUs, "" if it pins none.

    Example:
      >>> pin().startswith("==0.0.")
      True
    """
    from packaging.requirements import Requirement

    for line in metadata.requires("jax") or ():
        requirement = Requirement(line)
        if requirement.name == "libtpu" and (
            requirement.marker is None or requirement.marker.evaluate({"extra": "tpu"})
        ):
            return str(requirement.specifier)
    return ""


@contextlib.contextmanager
def alone(say: Callable[[str], None]) -> Iterator[None]:
    """Locks out other plans of this user while the block runs; waits for a running one.

    Args:
      say: called with one line of text before waiting.
    """
    import fcntl  # not on Windows, where there is no libtpu either

    path = os.path.join(tempfile.gettempdir(), f"hcjax-plan-{os.getuid()}.lock")
    with open(path, "a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"waiting for another --plan on this machine to finish (it holds {path})")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield  # closing the file lets go of the lock, also when the process is killed


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silences libtpu while it is loaded inside the block, and skips its metadata server.

    Writes to file descriptor 2, by C++ too, are dropped; errors are raised as exceptions. The
    environment is restored, so that a real TPU can still be started afterwards.
    """
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    sys.stderr.flush()
    saved, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.__setitem__(name, value)
        sys.stderr.flush()
        os.dup2(saved, 2)
        os.close(saved)
        os.close(nowhere)
