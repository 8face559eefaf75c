"""The platform of a run, its compilation cache, and the lines that describe both.

The command line calls this first; an import of hcjax runs none of it.
"""

from __future__ import annotations

import contextlib
import glob
import importlib.util
import os
import platform as machine
import warnings
from collections import Counter
from pathlib import Path

import jax
import jaxlib

from hcjax.core import system
from hcjax.devices import libtpu
from hcjax.errors import ConfigError, PlatformError

PLATFORMS = ("", "cpu", "gpu", "tpu")
_DETERMINISTIC = "--xla_gpu_deterministic_ops=true"
_HITS = "/jax/compilation_cache/cache_hits"
_MISSES = "/jax/compilation_cache/cache_misses"


def select(name: str = "", *, deterministic: bool = False) -> str:
    """Selects jax's platform and returns its name.

    Args:
      name: "cpu", "gpu" or "tpu"; "" for the best available one (or `JAX_PLATFORMS`).
      deterministic: whether XLA uses bit-exact GPU kernels, which are slower; CPU and TPU kernels
        are always bit-exact.

    Returns:
      The platform in use.

    Raises:
      ConfigError: if `name` is unknown.
      PlatformError: if the platform is not available. There is no fall-back.
    """
    if name not in PLATFORMS:
        raise ConfigError(f"platform must be one of {', '.join(PLATFORMS[1:])}, got {name!r}")
    if deterministic and name != "cpu":
        flags = os.environ.get("XLA_FLAGS", "").split()
        flags += [] if _DETERMINISTIC in flags else [_DETERMINISTIC]
        os.environ["XLA_FLAGS"] = " ".join(flags)
    if name:
        jax.config.update("jax_platforms", {"gpu": "cuda"}.get(name, name))
    asked = name or jax.config.jax_platforms or ""
    try:
        with libtpu.quiet() if not asked and _only_libtpu() else contextlib.nullcontext():
            used = jax.devices()[0].platform
    except (RuntimeError, AssertionError) as error:  # without a GPU, jax fails an assertion
        reason = (str(error) or "jax finds no such device").splitlines()[0]
        raise PlatformError(
            f"platform '{asked}' was asked for and cannot be used: {reason}. "
            f"Is another process holding it? Is the right jax installed (pip install "
            f"'jax[{'tpu' if asked == 'tpu' else 'cuda'}]')? Or ask for --config.platform=cpu"
        ) from error
    if not asked and used == "cpu" and glob.glob("/dev/nvidia[0-9]*"):
        warnings.warn(
            "this machine has an NVIDIA GPU, and jax uses the CPU: is jax[cuda13] installed? "
            "--config.platform=cpu says that the CPU is meant, =gpu makes it an error",
            stacklevel=2,
        )
    if name and used != name:
        raise PlatformError(f"platform '{name}' was asked for, but jax uses '{used}'")
    return used


def cache_folder(base: str | Path | None = None) -> Path:
    """Returns the compilation cache's folder for this jax, jaxlib and processor.

    Args:
      base: folder of all such caches; None for `system.base_folder()`.

    Note:
      XLA compiles for the processor's own instructions: programs of another machine can crash here,
      so the name holds a hash of the processor's model and flags.
    """
    digest = system.fingerprint()
    name = f"jax-{jax.__version__}-jaxlib-{jaxlib.__version__}-{digest}"
    return Path(base or system.base_folder()).expanduser().absolute() / "compiled" / name


def use_cache(folder: Path | None) -> Counter:
    """Enables the persistent compilation cache and returns a counter of its hits and misses.

    Args:
      folder: see `cache_folder`; None turns the cache off.

    Returns:
      Counter with "hits" and "misses", updated as programs are compiled.
    """
    counts: Counter = Counter()
    jax.config.update("jax_enable_compilation_cache", folder is not None)
    if folder is None:
        return counts
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"cannot make the compilation cache {folder}: {error.strerror}; name another one with "
            f"--config.cache_dir, or 'off'"
        ) from error
    jax.config.update("jax_compilation_cache_dir", str(folder))
    # jax's default of 1 s never caches the steps of small networks
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)

    def listen(event: str, **_):
        if event in (_HITS, _MISSES):
            counts["hits" if event == _HITS else "misses"] += 1

    jax.monitoring.register_event_listener(listen)
    return counts


def describe(cache: Path | None) -> list[str]:
    """Describes a run in its first lines: platform, devices, hosts, threads, versions, cache."""
    devices = jax.devices()
    entries = sum(1 for p in cache.iterdir() if p.name.endswith("-cache")) if cache else 0
    count = f"{len(devices)} device{'s' if len(devices) > 1 else ''}"
    kind = devices[0].device_kind
    return [
        f"platform {devices[0].platform}: {count} ({kind}), host {jax.process_index()} of "
        f"{jax.process_count()}, {system.threads()} threads",
        f"python {machine.python_version()}, jax {jax.__version__}, jaxlib {jaxlib.__version__}",
        f"compilation cache: {f'{cache} ({entries} programs)' if cache else 'off'}",
    ]


def _only_libtpu() -> bool:
    """Tells whether libtpu is installed without a TPU; it then prints many errors."""
    here = glob.glob("/dev/accel[0-9]*") or glob.glob("/dev/vfio/[0-9]*")
    return not here and importlib.util.find_spec("libtpu") is not None
