"""What all tests share: the platform, the programs compiled so far, and which worker runs what."""

import os
import tempfile
from pathlib import Path

import pytest

from tests import slow

# before anything imports jax; workers, and programs that tests start, take them over
os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    _folder = tempfile.TemporaryDirectory(prefix="hcjax-tests-")  # goes with this process
    os.environ["JAX_COMPILATION_CACHE_DIR"] = _folder.name
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder of compilation caches, so that launched programs compile each thing once."""
    return tmp_path_factory.mktemp("compiled")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Gives all tests of a file to one worker: what they share is made and traced once."""
    from xdist.scheduler import LoadFileScheduling

    return LoadFileScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    """Marks the members in `SLOW` and `LONG`, before pytest chooses; stale entries end it."""
    names = {item: slow.name_of(item.nodeid) for item in items}
    for item, name in names.items():
        if any(slow.means(entry, name) for entry in slow.SLOW):
            item.add_marker(pytest.mark.slow)
        if any(slow.means(entry, name) for entry in slow.LONG):
            item.add_marker(pytest.mark.long)
    parts_of_files = config.getoption("lf", False) or any("::" in each for each in config.args)
    root = Path(__file__).parent
    files = (path.relative_to(root).as_posix() for path in root.rglob("test_*.py"))
    if not parts_of_files and (stale := slow.stale(names.values(), files)):
        raise pytest.UsageError(f"tests/slow.py names tests that there are not: {stale}")
