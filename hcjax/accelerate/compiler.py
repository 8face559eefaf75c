"""XLA options that select better CPU kernels, if this jaxlib has them.

oneDNN is part of jaxlib's wheel but off by default. Its convolutions and matrix products run
forward passes and input gradients 1.2 to 2.5 times as fast.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.accelerate.accelerate import accelerate
from hcjax.accelerate.rules import RULES, here
from hcjax.core import system, walker
from hcjax.core.files import write_json
from hcjax.errors import CheckpointError
from hcjax.native import onednn

OPTIONS = {
    "xla_cpu_experimental_onednn_custom_call": True,
    # needed too: otherwise another library takes the convolutions first
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


def options() -> dict[str, Any]:
    """Returns the compiler options for training and evaluation steps here; {} for none.

    With native kernels there is nothing to ask the compiler for, and its programs can be kept.

    Example:
      >>> set(options()) <= set(OPTIONS)
      True
    """
    return probed() if onednn.missing() else {}


@cache
def probed() -> dict[str, Any]:
    """Returns `OPTIONS` if this jaxlib's compiler takes them, and {} if not.

    The options are probed on a small convolution, because experimental options come and go with
    releases, and an unknown one is an error. The result is cached, for this jaxlib and processor,
    in jax's persistent compilation cache, if that is a folder on this machine.
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return {}
    folder = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir
    file = Path(folder) / "compiler-options.json" if folder and "://" not in folder else None
    cached = _cached(file) if file else None
    works = _probe() if cached is None else cached
    if file and cached is None:
        # without a writable cache the next run only probes again
        with suppress(CheckpointError):
            write_json(file, _cache_key() | {"work": works})
    return OPTIONS if works else {}


def _cached(file: Path) -> bool | None:
    """Reads the result of an earlier process's probe; None if there is none for these options."""
    try:
        entry = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(entry, dict) or not isinstance(works := entry.pop("work", None), bool):
        return None
    return works if entry == _cache_key() else None


def _cache_key() -> dict[str, Any]:
    """Returns the options and the machine that a cached result is valid for."""
    return {"options": OPTIONS, "machine": system.fingerprint()}


def _probe() -> bool:
    """Tells whether a convolution compiles to oneDNN with `OPTIONS`, with the same result."""

    def convolve(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)

    x, k = jnp.arange(128.0).reshape(2, 4, 4, 4), jnp.arange(144.0).reshape(3, 3, 4, 4) % 5
    try:
        with uncached():
            fast = jax.jit(convolve, compiler_options=OPTIONS).lower(x, k).compile()
            y = fast(x, k)
    except Exception:  # compilers differ in how they refuse unknown options
        return False
    # jaxlib 0.10 takes the options, and calls its own kernels all the same
    return "__onednn" in fast.as_text() and bool(jnp.allclose(y, jax.jit(convolve)(x, k)))


@contextmanager
def uncached() -> Iterator[None]:
    """Keeps programs that are compiled inside out of jax's persistent compilation cache.

    Programs that call oneDNN cannot be serialised (jaxlib 0.12): trying to fails, and at times
    aborts the process. So each process compiles them.
    """
    name = "jax_persistent_cache_min_compile_time_secs"
    before = getattr(jax.config, name)
    jax.config.update(name, 1e9)
    try:
        yield
    finally:
        jax.config.update(name, before)


def rewritten(step: Callable) -> Callable:
    """Accelerates a step for this platform and the options it will be compiled with."""
    return accelerate(step, platform=_table())


def jit(fn: Callable, *, donate_argnums: Sequence[int] = ()) -> Callable:
    """Compiles `fn` as `fit` compiles its steps: accelerated, with `options()`.

    Args:
      fn: a function of arrays, e.g. `model.apply` of a folded Model.
      donate_argnums: arguments whose memory the results may reuse.

    Returns:
      A function of the same arguments. A loop over convolutions is compiled without the options.

    Example:
      >>> jit(lambda x: 2 * x)(jnp.ones(2)).tolist()
      [2.0, 2.0]
    """
    return compiled(fn, donate_argnums=donate_argnums)


def tune(fn: Callable, *args: Any, seconds: float = 0.2) -> Callable:
    """Compiles `fn` in several ways, times each on `args`, and returns the fastest.

    For inference: XLA may fuse an unchanged small network into one kernel, while a larger one gains
    from rewrites and oneDNN's kernels. Close over parameters, so that the compiler can choose their
    layout: `tune(lambda x: model.apply(model.params, x), images)`.

    Args:
      fn: a function of arrays.
      *args: of the later shapes and dtypes; `fn` is run on them.
      seconds: time to run each way, > 0. On a busy machine, or on another day, another way may win,
        whose results differ by rounding.

    Returns:
      A jitted function of the same arguments.

    Example:
      >>> tune(lambda x: 2 * x, jnp.ones(2))(jnp.ones(2)).tolist()
      [2.0, 2.0]
    """
    if _table() not in RULES:
        return jax.jit(fn)
    fused = accelerate(fn, platform="cpu+fused")
    ways = [jax.jit(fused)]
    if options() and not loops_over_convolutions(ways[0].trace(*args).jaxpr):
        ways += [jax.jit(f, compiler_options=options()) for f in (fused, rewritten(fn))]
    else:
        ways.append(jax.jit(accelerate(fn)))
    for i, way in enumerate(ways):
        with uncached() if i and options() else nullcontext():
            jax.block_until_ready(way(*args))
    medians = in_turns([partial(way, *args) for way in ways], seconds)
    return ways[min(range(len(ways)), key=medians.__getitem__)]


def in_turns(calls: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """Measures the median time of each call, in seconds.

    The calls run in turns, so that a slow moment of the machine hits all of them, until the first
    has run for `seconds`. Each must be compiled already.
    """
    times: list[list[float]] = [[] for _ in calls]
    while sum(times[0]) < seconds:
        for call, elapsed in zip(calls, times, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(call())
            elapsed.append(time.perf_counter() - start)
    return [statistics.median(elapsed) for elapsed in times]


def compiled(
    fn: Callable,
    *,
    around: Callable[[Callable], Callable] = lambda fn: fn,
    donate_argnums: Sequence[int] = (),
) -> Callable:
    """Accelerates `fn` and compiles it with `options()`, unless it loops over convolutions.

    The choice is made for each set of argument shapes.

    Args:
      around: a transform of the accelerated function before compilation, e.g. `jax.pmap`.
      fn, donate_argnums: see `jit`.
    """
    plain = jax.jit(around(accelerate(fn)), donate_argnums=donate_argnums)
    if not options():
        return plain
    fast = jax.jit(around(rewritten(fn)), donate_argnums=donate_argnums, compiler_options=options())
    chosen: dict[Any, Callable] = {}

    def run(*args, **kwargs):
        leaves, tree = jax.tree.flatten((args, kwargs))
        key = (tree, *((getattr(x, "shape", None), getattr(x, "dtype", x)) for x in leaves))
        if key in chosen:
            return chosen[key](*args, **kwargs)
        loops = loops_over_convolutions(fast.trace(*args, **kwargs).jaxpr)
        chosen[key] = plain if loops else fast
        with nullcontext() if loops else uncached():
            return chosen[key](*args, **kwargs)

    return run


def describe(on: bool) -> str:
    """Describes how the steps of a run are compiled, in one line."""
    if not on:
        return "steps compiled as they are (accelerate is off)"
    backend = jax.default_backend()
    rules = "rewritten by hcjax.accelerate" if _table() in RULES else "not rewritten"
    why, kernels = onednn.missing(), "XLA's own kernels"
    if not why:
        kernels = f"native kernels of oneDNN {onednn.version()}"
    elif options():
        kernels = f"those of oneDNN that jaxlib holds, and not native ones: {why}"
    elif backend == "cpu":
        kernels += f", not native ones: {why}"
    return f"steps {rules} for {backend}, compiled with {kernels}"


def loops_over_convolutions(jaxpr: Any) -> bool:
    """Tells whether a loop of a jaxpr holds a convolution, which hangs the compiler with `OPTIONS`.

    Example:
      >>> loops_over_convolutions(jax.make_jaxpr(jnp.sin)(1.0))
      False
    """
    return any(
        place.loop and eqn.primitive.name == "conv_general_dilated"
        for eqn, place in walker.equations(jaxpr)
    )


def _table() -> str:
    return "cpu+onednn" if options() else here()
