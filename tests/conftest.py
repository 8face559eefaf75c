"""What all tests share: the platform, the programs compiled so far, and which worker runs what."""

import os
import tempfile

import pytest

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
