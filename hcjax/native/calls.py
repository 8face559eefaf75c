"""Calls from XLA's CPU programs into libraries of C++; the one file that touches `jax.ffi`.

In: a library and the name of a handler in it. Out: a function of arrays that can be jitted, mapped
and differentiated. The name of a target holds the library's hash, so that a program in the
compilation cache that calls another library is not taken for this one.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import jax
from jax import lax

from hcjax.core import system


def include_folder() -> str:
    """Returns the folder of the headers that a library must be built with, of this jaxlib."""
    return jax.ffi.include_dir()


def threads() -> int:
    """Returns how many threads a call may use: the process's, divided among its devices."""
    return max(1, system.threads() // jax.local_device_count())


@cache
def load(library: Path) -> ctypes.CDLL:
    """Loads a library, once."""
    return ctypes.CDLL(str(library))


@cache
def target(library: Path, symbol: str) -> str:
    """Registers a handler of a library with XLA, once, and returns its target's name."""
    name = f"{symbol}_{library.parent.name}"
    handler = getattr(load(library), symbol)
    jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(handler), platform="cpu")
    return name


def call(name: str, result: jax.ShapeDtypeStruct, *args: Any, **how: Any) -> jax.Array:
    """Calls a target with one result, see `call_all`."""
    return call_all(name, [result], *args, **how)[0]


def call_all(
    name: str,
    results: Sequence[jax.ShapeDtypeStruct],
    *args: Any,
    vmap: str = "broadcast_all",
    reused: int | None = None,
    **attributes: Any,
) -> list[jax.Array]:
    """Calls a target.

    Args:
      name: of `target`.
      results: shape and dtype of each array that it writes.
      *args: arrays.
      vmap: what a `vmap` does: "broadcast_all" puts the mapped axes before those of all arrays,
        "sequential" calls once for each element.
      reused: index of the array whose memory the first result may take, of its shape and dtype;
        XLA copies it first if it is read again.
      **attributes: static; strings, NumPy arrays and scalars, whose dtypes the handler names.
    """
    aliases = {} if reused is None else {reused: 0}
    run = jax.ffi.ffi_call(name, list(results), vmap_method=vmap, input_output_aliases=aliases)
    found = run(*args, **attributes)
    # under shard_map the result of a call has lost the mesh axes that it varies over, and jax would
    # take it for equal on all devices
    all_axes = set().union(*(_varying(x) for x in args))

    def vary(y):
        axes = all_axes - _varying(y)
        return lax.pcast(y, tuple(sorted(axes)), to="varying") if axes else y

    return [vary(y) for y in found]


def differentiable(fast: Callable, plain: Callable) -> Callable:
    """Gives a function of arrays the derivatives of another one with the same values.

    Both return an array, or both a list of arrays.
    """
    fn = jax.custom_jvp(lambda *args: fast(*args))

    @fn.defjvp
    def tangent(primals: Sequence, tangents: Sequence):
        return fn(*primals), jax.jvp(plain, primals, tangents)[1]

    return fn


def alone(fast: Callable, plain: Callable) -> Callable:
    """Gives a function of arrays another one with the same values, for where it is mapped.

    Each element by a call of its own may be slower than all of them at once.
    """
    fn = jax.custom_batching.custom_vmap(lambda *args: fast(*args))

    @fn.def_vmap
    def mapped(size: int, is_mapped: Sequence[bool], *args: Any):
        del size
        return jax.vmap(plain, [0 if each else None for each in is_mapped])(*args), True

    return fn


def _varying(x: Any) -> frozenset:
    """Returns the mesh axes that an array varies over, inside a shard_map."""
    kind = getattr(jax.typeof(x), "manual_axis_type", None)
    return frozenset(kind.varying) if kind is not None else frozenset()
