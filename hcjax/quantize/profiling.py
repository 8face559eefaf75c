"""What integers are worth on a machine: `profile`, by the clock, and `pair_sums`, by proof.

In: a Model, and for the clock the ranges of its values and images. Out: a table of seconds in float
and in integers, with the layers that had better stay in float; how far sums of two products reach.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax.accelerate import compiler
from hcjax.core import text
from hcjax.graph.axes import kernel_axis
from hcjax.graph.model import LAYERS, Model, Op, capture_activations, live_ops
from hcjax.graph.qtensor import QTensor
from hcjax.quantize import error_analysis, fake
from hcjax.quantize.int8 import int8
from hcjax.quantize.ranges import Ranges
from hcjax.quantize.spec import QuantSpec, every_layer, with_fields


class LayerSeconds(NamedTuple):
    """One layer, with all that follows it up to where its output is rounded to integers.

    name: of its parameters. macs: for one image. float_seconds, int8_seconds: of one call.
    """

    name: str
    macs: int
    float_seconds: float
    int8_seconds: float

    @property
    def ratio(self) -> float:
        """How many times as fast it is in integers."""
        return self.float_seconds / self.int8_seconds


class Profile(NamedTuple):
    """The rows of a network, in order; printed as a table.

    floats: layers and other ops that no integer form holds. batch: images of one call.
    """

    rows: tuple[LayerSeconds, ...]
    floats: tuple[str, ...]
    batch: int
    device: str

    @property
    def slower(self) -> str:
        """The layers that gain nothing, as `floats` of `int8` and `fake_quantize` takes them."""
        return "|".join(re.escape(row.name) for row in self.rows if row.ratio < 1)

    def __str__(self) -> str:
        lines = [("layer", "MACs", "float (us)", "int8 (us)", "times as fast", "better in")]
        for row in self.rows:
            seconds = (f"{1e6 * s:,.0f}" for s in (row.float_seconds, row.int8_seconds))
            better = "float" if row.ratio < 1 else "int8"
            lines.append((row.name, row.macs, *seconds, f"{row.ratio:.2f}", better))
        left = [f"in float: {each}" for each in self.floats]
        return "\n".join([text.aligned(lines), *left, f"batch {self.batch}, {self.device}"])


def profile(
    model: Model,
    ranges: Ranges,
    images: Any,
    spec: QuantSpec | None = None,
    *,
    seconds: float = 0.2,
    **fields: Any,
) -> Profile:
    """Returns how long each layer takes on this machine, in float and in integers.

    Both are compiled in the way that `hcjax.tune` finds fastest, and then run in turns. A layer
    alone is not what it is in a network, where XLA may fuse it with others and integers that reach
    a layer left in float are converted first: measure the whole too, e.g. by `cards.scorecard`.

    Args:
      model: from `trace`, best through `fold`.
      ranges: from `calibrate` of it.
      images: float array [N, ...], N >= 1, as the model takes them; the batch that is timed.
      spec, **fields: as of `fake_quantize`; no layer is left in float.
      seconds: that each layer is run for in float, > 0; in integers it is run as often.

    Returns:
      Profile. `int8(model, ranges, floats=found.slower)` leaves what gains nothing in float.

    Raises:
      ValueError: if the ranges are another model's, the images of another shape, or an argument is
        out of range, or the spec leaves layers in float.
      TypeError: if a field is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import calibrate, trace
      >>> images = jnp.array([[1.0, -2.0]])
      >>> model = trace(lambda p, x: x @ p["fc"]["w"], {"fc": {"w": jnp.eye(2)}}, images)
      >>> found = profile(model, calibrate(model, images, method="minmax"), images, seconds=0.01)
      >>> [(row.name, row.macs) for row in found.rows], found.batch, found.slower in ("", "fc")
      ([('fc', 4)], 1, True)
    """
    quantized, builder = fake.build(model, ranges, every_layer(with_fields(spec, fields)))
    small = int8(quantized)
    model.check(images)
    if not len(images) or not seconds > 0:
        raise ValueError(f"some images and seconds > 0 are needed, got {len(images)} and {seconds}")
    plain = builder.constants | _seen(model, images)
    whole = small.graph.constants | _seen(small, images)
    whole |= {number: small.params[path] for path, number in small.graph.params.items()}
    original = {op.output: op for op in builder.original}
    rows = []
    for op in small.graph.ops:
        if "layer" not in op.params:
            continue
        first, name = original[op.params["layer"][0]], op.params["layer"][1]
        end = error_analysis.end(builder, first)
        rounded = (
            builder.forms[end].int8.number
            if builder.forms[end].int8
            else builder.forms[end].floating
        )
        ways = (
            _alone(builder.original, first, end, plain, len(images)),
            _alone(small.graph.ops, op, rounded, whole, len(images)),
        )
        rows.append(LayerSeconds(name, first.macs, *_seconds(ways, seconds)))
    device = jax.devices()[0].device_kind
    return Profile(tuple(rows), small.floats, len(images), device)


def pair_sums(model: Model) -> dict[str, int]:
    """Returns how far the sum of two neighbouring products of each layer can reach.

    x86 processors without VNNI multiply uint8 by int8 and add two neighbours in int16, which is cut
    off at 32,767 without a word (`vpmaddubsw`). With any two weights a, b of one output channel
    beside each other, the worst is 255 · max(|a| + |b|, of equal sign): up to 64,770 in 8 bits, and
    32,130 in 7. `int8(..., bits=7)` therefore never saturates, and this proves it; in 8 bits it may
    happen to hold. The programs that hcjax compiles add in int32 and need none of it.

    Args:
      model: from `int8`.

    Returns:
      Path of each kernel -> int, at most 32,767 where nothing can saturate.

    Raises:
      TypeError: if the model holds no integers.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import calibrate, trace
      >>> images = jnp.ones((1, 2))
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2) + 0.5}, images)
      >>> ranges = calibrate(model, images, method="minmax")
      >>> {b: pair_sums(int8(model, ranges, bits=b)) for b in (8, 7)}
      {8: {'w': 43095}, 7: {'w': 21420}}
    """
    paths = {n: p for p, n in model.graph.params.items() if isinstance(model.params[p], QTensor)}
    found = {}
    for op in model.graph.ops:
        for number in paths.keys() & op.inputs if op.kind in LAYERS else ():
            values = np.asarray(model.params[paths[number]].values, np.int64)
            axis = kernel_axis(op, {number: values})
            columns = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
            sides = (np.sort(np.maximum(sign * columns, 0), axis=0)[-2:] for sign in (1, -1))
            found[paths[number]] = 255 * max(int(side.sum(0).max()) for side in sides)
    if not found:
        raise TypeError("no layer computes in integers: give what int8 returns")
    return found


def _seen(model: Model, images: Any) -> dict[int, jax.Array]:
    """Returns the value of every number that depends on images."""
    images = jax.numpy.asarray(images)
    compute = jax.jit(lambda images: capture_activations(model, model.leaves(model.params), images))
    return {model.graph.images: images} | compute(images)


def _alone(
    ops: Sequence[Op], first: Op, end: int, values: dict[int, Any], batch: int
) -> tuple[Callable, list]:
    """Returns (function, operands) of a layer and what follows it, up to the number `end`."""
    later, behind = [first], set(first.outputs)
    for op in ops[ops.index(first) + 1 :]:
        if behind.intersection(op.inputs):
            later.append(op)
            behind.update(op.outputs)
    part = live_ops(later, end)
    read = {i for op in part for i in op.inputs} - {o for op in part for o in op.outputs}
    # what has the batch's size is given, all else may be laid out by the compiler
    given = sorted(i for i in read if getattr(values[i], "ndim", 0) and len(values[i]) == batch)
    fixed = {i: values[i] for i in read.difference(given)}

    def compute(*operands):
        env = fixed | dict(zip(given, operands, strict=True))
        for op in part:
            env |= zip(op.outputs, op.run(batch, *[env[i] for i in op.inputs]), strict=True)
        return env[end]

    return compute, [values[i] for i in given]


def _seconds(ways: Sequence[tuple[Callable, list]], seconds: float) -> list[float]:
    """Returns the median time of a call of each way, run in turns."""
    calls = [partial(compiler.tune(fn, *operands), *operands) for fn, operands in ways]
    return compiler.in_turns(calls, seconds)
