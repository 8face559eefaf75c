"""StableHLO: a network as a program that a process runs which imports jax alone, by `jax.export`.

One file holds the program for CPU, CUDA and TPU, with the weights inside. A file for any size of
batch computes what `model.apply` does; one for a single size also has the rewrites of
`hcjax.accelerate`, in a branch that only a CPU takes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
from jax import export, lax

from hcjax.accelerate.accelerate import accelerate
from hcjax.core import optional
from hcjax.errors import ConfigError
from hcjax.export.hcz import interfaces
from hcjax.graph.model import Model, in_integers, run

PLATFORMS = ("cpu", "cuda", "tpu")
# rewrites alone: native kernels are of the process that has them, and a file goes elsewhere
_TABLE = "cpu+fused"


def stablehlo(
    model: Model, *, batch: int | None = None, platforms: Sequence[str] = PLATFORMS
) -> bytes:
    """Returns a network as serialised StableHLO with its weights inside.

    `jax.export.deserialize(bytearray(data)).call(*inputs)` runs it, under `jax.jit`; that process
    needs jax and flatbuffers only. An integer network with no `floats` gives the bits of
    `jax.jit(model.apply)` on every machine, one in float the same numbers within rounding: with jax
    0.12 the same bits on one machine, if it is for any number of examples.

    Args:
      model: in float or in integers.
      batch: examples of a call, >= 1; None for any number. On a CPU integers of one size may be
        several times as fast, since `accelerate` rewrites no convolution of an unknown size.
      platforms: one program for each, of "cpu", "cuda", "rocm" and "tpu".

    Returns:
      bytes. Trees of inputs and outputs are dicts, lists and tuples, as in a `.hcz` file. jax reads
      them for six months at least, and refuses older ones: keep the network's `.hcz` file too.

    Raises:
      ConfigError: if `batch` or `platforms` is not legal, or jax cannot export an op.
      DependencyError: if flatbuffers is not installed.

    Example:
      >>> import jax.numpy as jnp, hcjax
      >>> model = hcjax.trace(lambda p, x: x @ p["w"], {"w": 2 * jnp.eye(2)}, jnp.ones((1, 2)))
      >>> data = stablehlo(model)
      >>> jax.export.deserialize(bytearray(data)).call(jnp.ones((3, 2))).tolist()[0]
      [2.0, 2.0]
    """
    optional.require("flatbuffers", extra="export", what="StableHLO")
    _check(batch, platforms)
    model = interfaces.plain(model)
    leaves, structure = model.leaves(model.params), jax.tree.structure(model.outputs)

    def compute(leaves, arrays):
        return run(model.graph, leaves, arrays)

    fast = accelerate(compute, platform=_TABLE)

    def program(*inputs):
        arrays = jax.tree.leaves(inputs)
        if batch is None or "cpu" not in platforms:
            # XLA folds weights that it sees, which rounds otherwise than with those of `apply`;
            # that of jax 0.10 sees those of large dense layers all the same
            seen = leaves if in_integers(model) else lax.optimization_barrier(leaves)
            results = compute(seen, arrays)
        elif tuple(platforms) == ("cpu",):
            results = fast(leaves, arrays)
        else:  # a branch that is chosen when the file is compiled
            results = lax.platform_dependent(leaves, arrays, cpu=fast, default=compute)
        return jax.tree.unflatten(structure, results)

    size: Any = export.symbolic_shape("N")[0] if batch is None else batch
    inputs = jax.tree.map(lambda leaf: leaf.abstract(size), model.inputs)
    try:
        with _without_lines():
            exported = export.export(jax.jit(program), platforms=platforms)(*inputs)
        return bytes(exported.serialize())
    except (ValueError, TypeError, NotImplementedError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"StableHLO cannot be written: {reason:.300}. Compute this outside the network"
        ) from error


@contextmanager
def _without_lines() -> Iterator[None]:
    """Leaves source lines out of programs: paths of this machine, other ones for each caller."""
    names = ("jax_traceback_in_locations_limit", "jax_include_full_tracebacks_in_locations")
    before = {name: getattr(jax.config, name) for name in names}
    try:
        for name, value in zip(names, (0, True), strict=True):  # True: not one line instead
            jax.config.update(name, value)
        yield
    finally:
        for name, value in before.items():
            jax.config.update(name, value)


def _check(batch: int | None, platforms: Sequence[str]) -> None:
    if batch is not None and (type(batch) is not int or batch < 1):
        raise ConfigError(f"batch must be a whole number >= 1, or None for any, got {batch!r}")
    legal = (*PLATFORMS, "rocm")
    if isinstance(platforms, str) or not platforms or not set(platforms) <= set(legal):
        raise ConfigError(f"platforms must be a tuple of {', '.join(legal)}, got {platforms!r}")
