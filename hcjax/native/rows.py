"""Products of a few rows with a matrix for XLA's CPU programs, by all threads: see `rows.cc`."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import jax
import numpy as np

from hcjax.native import build, calls

SOURCE = Path(__file__).parent / "rows.cc"


@cache
def missing() -> str:
    """Returns why such products cannot be computed in this process; '' if they can."""
    try:
        _library()
    except build.BuildError as error:
        return str(error)
    except OSError as error:
        return f"the library cannot be loaded: {error}"
    return ""


def product(x: jax.Array, w: jax.Array) -> jax.Array:
    """Returns x @ w.

    Args:
      x: float32[M, K], M few.
      w: float32[K, N].

    Returns:
      float32[M, N], the same bits for any number of threads.
    """
    result = jax.ShapeDtypeStruct((x.shape[0], w.shape[1]), np.float32)
    return calls.call(calls.target(_library(), "hcjax_rows"), result, x, w, vmap="sequential")


@cache
def _library() -> Path:
    """Returns the built library, told how many threads it may use."""
    flags = ("-fopenmp", "-isystem", calls.include_folder())
    library = build.library([SOURCE], flags=flags)
    calls.load(library).hcjax_rows_threads(calls.threads())
    return library
