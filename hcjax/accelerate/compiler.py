"""XLA options that reach better CPU kernels, where this jaxlib has them.

oneDNN is inside jaxlib's wheel, but is not used unless asked for: its convolutions and matrix
products then run forward passes and input gradients 1.2 to 2.5 times as fast.
"""

from __future__ import annotations

import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from hcjax.accelerate.accelerate import accelerate
from hcjax.accelerate.rules import RULES
from hcjax.core import walker
from hcjax.core.files import write_json
from hcjax.devices import platform
from hcjax.errors import CheckpointError

OPTIONS = {
    "xla_cpu_experimental_onednn_custom_call": True,
    # alone the first does nothing: the other library would take the convolutions before
    "xla_cpu_experimental_ynn_fusion_type": "LIBRARY_FUSION_TYPE_REDUCE",
}


@cache
def options() -> dict[str, Any]:
    """Returns the compiler options for training and evaluation steps here; {} for none.

    They are tried on a small convolution: experimental options come and go with releases, and one
    that a compiler does not know is an error there. The answer is kept, for this jaxlib and
    processor, in jax's persistent compilation cache, where that is a folder on this machine.

    Example:
      >>> set(options()) <= set(OPTIONS)
      True
    """
    if jax.default_backend() != "cpu" or jax.device_count() > 1:
        return {}
    on = jax.config.jax_enable_compilation_cache and jax.config.jax_compilation_cache_dir
    file = Path(on) / "compiler-options.json" if on and "://" not in on else None
    kept = _kept(file) if file else None
    works = _probe() if kept is None else kept
    if file and kept is None:
        with suppress(
            CheckpointError
        ):  # a cache that cannot be written only costs the next run its probe
            write_json(file, _question() | {"work": works})
    return OPTIONS if works else {}


def _kept(file: Path) -> bool | None:
    """Returns the answer that an earlier process kept; None if there is none to these options."""
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or not isinstance(works := found.pop("work", None), bool):
        return None
    return works if found == _question() else None


def _question() -> dict[str, Any]:
    """Returns what an answer is good for."""
    return {"options": OPTIONS, "machine": platform.fingerprint()}


def _probe() -> bool:
    """Returns whether a convolution compiles with `OPTIONS`, to oneDNN, and gives the same."""

    def convolve(x, k):
        layout = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, k, (1, 1), "SAME", dimension_numbers=layout)

    x, k = jnp.arange(128.0).reshape(2, 4, 4, 4), jnp.arange(144.0).reshape(3, 3, 4, 4) % 5
    try:
        with quiet():
            fast = jax.jit(convolve, compiler_options=OPTIONS).lower(x, k).compile()
            found = fast(x, k)
    except Exception:  # whatever a compiler makes of what it does not know
        return False
    # jaxlib 0.10 takes the options, and calls its own kernels all the same
    return "__onednn" in fast.as_text() and bool(jnp.allclose(found, jax.jit(convolve)(x, k)))


@contextmanager
def quiet() -> Iterator[None]:
    """Keeps back jax's warning that a program cannot be cached, while it is compiled.

    Programs that call oneDNN cannot be serialised (jaxlib 0.12): each process compiles them.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Error writing persistent compilation cache")
        yield


def rewritten(step: Callable) -> Callable:
    """Returns a step accelerated for this platform and the options it will be compiled with."""
    return accelerate(step, platform=_table())


def jit(fn: Callable, *, donate_argnums: Sequence[int] = ()) -> Callable:
    """Returns `fn` compiled as `fit` compiles its steps: accelerated, with `options()`.

    Args:
      fn: a function of arrays, e.g. `model.apply` of a folded Model.
      donate_argnums: arguments whose memory the results may take.

    Returns:
      A function of the same arguments. A loop over convolutions is compiled without the options.

    Example:
      >>> jit(lambda x: 2 * x)(jnp.ones(2)).tolist()
      [2.0, 2.0]
    """
    return compiled(fn, donate_argnums=donate_argnums)


def tune(fn: Callable, *args: Any, seconds: float = 0.2) -> Callable:
    """Returns `fn` compiled in the way that is fastest here, each tried on `args`.

    For networks in use: XLA may fuse a small one as it stands into one kernel, where a larger one
    gains by rewrites and oneDNN's kernels. Close over parameters, for the compiler to lay them out:
    `tune(lambda x: model.apply(model.params, x), images)`.

    Args:
      fn: a function of arrays.
      *args: what it will be called with, in shape and dtype; it is run on them.
      seconds: that each way is run for, > 0. It decides by time: on a busy machine, or the next
        day, another way may win, whose results differ by rounding.

    Returns:
      A jitted function of the same arguments; where a platform has one way, that one.

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
    with quiet():
        for way in ways:
            jax.block_until_ready(way(*args))
    medians = in_turns([partial(way, *args) for way in ways], seconds)
    return ways[min(range(len(ways)), key=medians.__getitem__)]


def in_turns(calls: Sequence[Callable[[], Any]], seconds: float) -> list[float]:
    """Returns the median time of each call, in seconds.

    They run in turns, for a slow moment of the machine to hit all of them, until the first has run
    for `seconds`; each must have been compiled.
    """
    times: list[list[float]] = [[] for _ in calls]
    while sum(times[0]) < seconds:
        for call, taken in zip(calls, times, strict=True):
            started = time.perf_counter()
            jax.block_until_ready(call())
            taken.append(time.perf_counter() - started)
    return [statistics.median(taken) for taken in times]


def compiled(
    fn: Callable,
    *,
    around: Callable[[Callable], Callable] = lambda fn: fn,
    donate_argnums: Sequence[int] = (),
) -> Callable:
    """Returns `fn` accelerated and compiled with `options()`, unless it loops over convolutions.

    Which of the two it is, is decided anew for other shapes, by what the function then holds.

    Args:
      around: what is done to the accelerated function before it is compiled, e.g. `jax.pmap`.
      fn, donate_argnums: as of `jit`.
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
        with quiet():
            return chosen[key](*args, **kwargs)

    return run


def describe(on: bool) -> str:
    """Returns the line of a run's beginning that says how its steps are compiled."""
    if not on:
        return "steps compiled as they are (accelerate is off)"
    rules = "rewritten by hcjax.accelerate" if _table() in RULES else "not rewritten"
    kernels = "oneDNN's kernels" if options() else "XLA's own kernels"
    return f"steps {rules} for {jax.default_backend()}, compiled with {kernels}"


def loops_over_convolutions(jaxpr: Any) -> bool:
    """Returns whether a loop in it holds a convolution, over which `OPTIONS` hang the compiler.

    Example:
      >>> loops_over_convolutions(jax.make_jaxpr(jnp.sin)(1.0))
      False
    """
    return any(
        place.loop and eqn.primitive.name == "conv_general_dilated"
        for eqn, place in walker.equations(jaxpr)
    )


def _table() -> str:
    return "cpu+onednn" if options() else jax.default_backend()
