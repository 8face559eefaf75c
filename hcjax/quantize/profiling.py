"""`profile` times each layer in float and in int8; `pair_sums` bounds sums of two products.

In: a Model; for `profile` also the ranges of its activations, and images. Out: a table of seconds
that names the layers to leave in float; the largest sum of two neighbouring products.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np

from hcjax.accelerate import compiler
from hcjax.core import notebook, text
from hcjax.graph import interface
from hcjax.graph.axes import kernel_axis
from hcjax.graph.model import LAYERS, Model, Op, capture_activations, live_ops
from hcjax.graph.qtensor import QTensor
from hcjax.quantize import error_analysis, fake
from hcjax.quantize.calibration.ranges import Ranges
from hcjax.quantize.int8 import int8
from hcjax.quantize.spec import QuantSpec, every_layer, with_fields


class LayerSeconds(NamedTuple):
    """One layer, with the ops behind it up to the requantization of its output.

    name: of its parameters. macs: for one image. float_seconds, int8_seconds: of one call.
    """

    name: str
    macs: int
    float_seconds: float
    int8_seconds: float

    @property
    def ratio(self) -> float:
        """Seconds in float divided by seconds in int8."""
        return self.float_seconds / self.int8_seconds


class Profile(NamedTuple):
    """The rows of a network, in order; printed as a table.

    floats: ops without an int8 form. batch: images of one call.
    """

    rows: tuple[LayerSeconds, ...]
    floats: tuple[str, ...]
    batch: int
    device: str

    _repr_html_ = notebook.to_html
    to_csv = notebook.to_csv
    to_latex = notebook.to_latex

    @property
    def grid(self) -> notebook.Grid:
        """A row for each layer, with the seconds of one call."""
        head = ("layer", "MACs", "float (s)", "int8 (s)", "times as fast")
        return notebook.Grid(head, [(*row, row.ratio) for row in self.rows], self._note)

    @property
    def _note(self) -> str:
        return f"batch {self.batch}, {self.device}"

    @property
    def slower(self) -> str:
        """The layers that are slower in int8, as a pattern for `floats` of `int8`."""
        return "|".join(re.escape(row.name) for row in self.rows if row.ratio < 1)

    def __repr__(self) -> str:
        lines = [("layer", "MACs", "float (us)", "int8 (us)", "times as fast", "better in")]
        for row in self.rows:
            seconds = (f"{1e6 * s:,.0f}" for s in (row.float_seconds, row.int8_seconds))
            better = "float" if row.ratio < 1 else "int8"
            lines.append((row.name, row.macs, *seconds, f"{row.ratio:.2f}", better))
        left = [f"in float: {each}" for each in self.floats]
        return "\n".join([text.aligned(lines), *left, self._note])


def profile(
    model: Model,
    ranges: Ranges,
    images: Any,
    spec: QuantSpec | None = None,
    *,
    seconds: float = 0.2,
    **fields: Any,
) -> Profile:
    """Returns the time of each layer on this machine, in float and in int8.

    Both are compiled with the fastest options of `hcjax.tune`, and then run in turns. In a network,
    XLA may fuse a layer with others, and a layer in float converts its int8 input first: measure
    the whole network too, e.g. by `cards.scorecard`.

    Args:
      model: from `trace`, best through `fold`.
      ranges: from `calibrate` of the same model.
      images: float array [N, ...], N >= 1, normalised as in training, or a tuple of all inputs;
        the timed batch.
      spec, **fields: as in `fake_quantize`, with no layer in float.
      seconds: run time of each layer in float, > 0; in int8 it runs as many times.

    Returns:
      Profile. `int8(model, ranges, floats=profile.slower)` leaves the slower layers in float.

    Raises:
      ValueError: if the ranges are another model's, the images have another shape, an argument is
        out of range, or the spec leaves layers in float.
      TypeError: if a field is unknown.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import calibrate, trace
      >>> images = jnp.array([[1.0, -2.0]])
      >>> model = trace(lambda p, x: x @ p["fc"]["w"], {"fc": {"w": jnp.eye(2)}}, images)
      >>> times = profile(model, calibrate(model, images, method="minmax"), images, seconds=0.01)
      >>> [(row.name, row.macs) for row in times.rows], times.batch, times.slower in ("", "fc")
      ([('fc', 4)], 1, True)
    """
    quantized, builder = fake.build(model, ranges, every_layer(with_fields(spec, fields)))
    integer = int8(quantized)
    arrays = model.arrays(images)
    if not seconds > 0:
        raise ValueError(f"seconds must be > 0, got {seconds}")
    batch = interface.count(model.inputs, arrays)
    floats = builder.constants | _activations(model, arrays)
    integers = integer.graph.constants | _activations(integer, arrays)
    integers |= {number: integer.params[path] for path, number in integer.graph.params.items()}
    original = {op.output: op for op in builder.original}
    rows = []
    for op in integer.graph.ops:
        if "layer" not in op.params:
            continue
        first, name = original[op.params["layer"][0]], op.params["layer"][1]
        end = error_analysis.end(builder, first)
        output = (
            builder.forms[end].int8.number
            if builder.forms[end].int8
            else builder.forms[end].floating
        )
        both = (
            _subgraph(builder.original, first, end, floats, batch),
            _subgraph(integer.graph.ops, op, output, integers, batch),
        )
        rows.append(LayerSeconds(name, first.macs, *_seconds(both, seconds)))
    device = jax.devices()[0].device_kind
    return Profile(tuple(rows), integer.floats, batch, device)


def pair_sums(model: Model, *, stored: str = "uint8") -> dict[str, int]:
    """Returns the largest possible sum of two neighbouring products of each layer.

    x86 processors without VNNI multiply uint8 by int8 and add two neighbours in int16, silently
    saturating at 32,767 (`vpmaddubsw`). If any two weights a, b of one output channel may be
    neighbours, the bound is 255 · max(|a| + |b|, of equal sign): up to 64,770 in 8 bits, and 32,130
    in 7. So `int8(..., bits=7)` never saturates; in 8 bits a network may, in a runtime that stores
    activations as uint8. Stored as int8, as hcjax stores them with and without zero points, they
    are multiplied as |q| and sign(q) · weight: 128 · max(|a| + |b|) <= 32,512 never saturates. The
    programs that hcjax compiles add in int32 and do not need this bound.

    Args:
      model: from `int8`.
      stored: "uint8" or "int8": how the runtime stores activations.

    Returns:
      Path of each kernel -> int; a layer with at most 32,767 cannot saturate.

    Raises:
      TypeError: if the model holds no integers.
      ValueError: if `stored` is neither.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax import calibrate, trace
      >>> images = jnp.ones((1, 2))
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.eye(2) + 0.5}, images)
      >>> ranges = calibrate(model, images, method="minmax")
      >>> {b: pair_sums(int8(model, ranges, bits=b)) for b in (8, 7)}
      {8: {'w': 43095}, 7: {'w': 21420}}
    """
    if stored not in ("uint8", "int8"):
        raise ValueError(f"stored must be uint8 or int8, got {stored!r}")
    paths = {n: p for p, n in model.graph.params.items() if isinstance(model.params[p], QTensor)}
    sums = {}
    for op in model.graph.ops:
        for number in paths.keys() & op.inputs if op.kind in LAYERS else ():
            values = np.asarray(model.params[paths[number]].values, np.int64)
            axis = kernel_axis(op, {number: values})
            columns = np.moveaxis(values, axis, -1).reshape(-1, values.shape[axis])
            # the sign of q is the weight's in int8, so that two of any signs may add up
            signs = (np.abs,) if stored == "int8" else (np.positive, np.negative)
            sides = (np.sort(np.maximum(sign(columns), 0), axis=0)[-2:] for sign in signs)
            greatest = max(int(side.sum(0).max()) for side in sides)
            sums[paths[number]] = greatest * (128 if stored == "int8" else 255)
    if not sums:
        raise TypeError("no layer computes in integers: give a model from int8")
    return sums


def _activations(model: Model, arrays: Sequence[Any]) -> dict[int, jax.Array]:
    """Returns the value of every number that depends on the inputs."""
    leaves = model.leaves(model.params)
    compute = jax.jit(lambda arrays: capture_activations(model, leaves, arrays))
    inputs = zip(model.graph.inputs, map(jax.numpy.asarray, arrays), strict=True)
    return dict(inputs) | compute(arrays)


def _subgraph(
    ops: Sequence[Op], first: Op, end: int, values: dict[int, Any], batch: int
) -> tuple[Callable, list]:
    """Returns (function, operands) of a layer and the ops behind it, up to the number `end`."""
    downstream, outputs = [first], set(first.outputs)
    for op in ops[ops.index(first) + 1 :]:
        if outputs.intersection(op.inputs):
            downstream.append(op)
            outputs.update(op.outputs)
    part = live_ops(downstream, [end])
    read = {i for op in part for i in op.inputs} - {o for op in part for o in op.outputs}
    # activations are arguments; the compiler may choose the layout of all other operands
    arguments = sorted(i for i in read if getattr(values[i], "ndim", 0) and len(values[i]) == batch)
    fixed = {i: values[i] for i in read.difference(arguments)}

    def compute(*operands):
        env = fixed | dict(zip(arguments, operands, strict=True))
        for op in part:
            env |= zip(op.outputs, op.run(batch, *[env[i] for i in op.inputs]), strict=True)
        return env[end]

    return compute, [values[i] for i in arguments]


def _seconds(functions: Sequence[tuple[Callable, list]], seconds: float) -> list[float]:
    """Returns the median time of a call of each (function, operands), run in turns."""
    calls = [partial(compiler.tune(fn, *operands), *operands) for fn, operands in functions]
    return compiler.in_turns(calls, seconds)
