"""Generated loops for XLA's CPU programs.

In: C source of loops. Out: names by which a program calls them. `loops.cc` finds a loop by its name
and divides its rows among threads; it is built once, the generated source once per program.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import jax
import numpy as np

from hcjax.native import build, calls

SOURCE = Path(__file__).parent / "loops.cc"
# the source says where a product and a sum are rounded once: a number is the same in every loop
_FLAGS = ("-ffp-contract=off", "-fno-math-errno", "-fno-trapping-math")


def compiled(source: str, names: Sequence[str]) -> dict[str, str]:
    """Builds loops, or finds them built, and makes them known to this process.

    Args:
      source: functions `extern "C" void NAME(long begin, long end, const void* const* in,
        void* const* out, double* sums)` of C++; see `loops.cc`.
      names: of the functions.

    Returns:
      Name of a function -> the name for `call`, which holds a hash of the source.

    Raises:
      build.BuildError: if they cannot be built or loaded here.
    """
    digest = hashlib.sha256(source.encode()).hexdigest()[:16]
    file = build.folder() / f"loops-{digest}.cc"
    try:
        if not file.exists():
            made = file.with_suffix(f".{os.getpid()}")
            made.write_text(source)
            os.replace(made, file)
        library = build.library([file], flags=_FLAGS)
        register = calls.load(_library()).hcjax_loop_register
        loaded = calls.load(library)
    except OSError as error:
        raise build.BuildError(f"generated loops cannot be kept or loaded: {error}") from error
    known = {name: f"{library.parent.name}.{name}" for name in names}
    for name, key in known.items():
        register(key.encode(), ctypes.cast(getattr(loaded, name), ctypes.c_void_p))
    return known


def call(
    name: str,
    results: Sequence[jax.ShapeDtypeStruct],
    *args: jax.Array,
    rows: int,
    channels: int,
    sums: int,
) -> list[jax.Array]:
    """Calls a loop.

    Args:
      name: of `compiled`.
      results: shapes and dtypes of what it writes, the sums last.
      *args: arrays that it reads.
      rows: how many rows it is divided into.
      channels: numbers of each sum.
      sums: how many of the results are sums.
    """
    numbers = {"rows": np.int64(rows), "channels": np.int64(channels), "sums": np.int64(sums)}
    target = calls.target(_library(), "hcjax_loop")
    return calls.call_all(target, results, *args, vmap="sequential", loop=name, **numbers)


@cache
def _library() -> Path:
    """Returns the built library of the handler, told how many threads it may use."""
    flags = ("-fopenmp", "-isystem", calls.include_folder())
    library = build.library([SOURCE], flags=flags)
    calls.load(library).hcjax_loop_threads(calls.threads())
    return library
