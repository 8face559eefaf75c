"""What all tests share: the platform, and folders for launched programs."""

import os

os.environ.setdefault("JAX_PLATFORMS", "cpu")  # before anything imports jax

import jax
import pytest
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder of compilation caches, so that launched programs compile each thing once."""
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def cached(compiled):
    """Lets this process too compile each program once; a module uses it by a pytestmark."""
    options = {
        "jax_enable_compilation_cache": True,
        "jax_compilation_cache_dir": str(compiled / "tests"),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    before = {name: getattr(jax.config, name) for name in options}

    def use(values):
        for name, value in values.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()

    use(options)
    yield
    use(before)
