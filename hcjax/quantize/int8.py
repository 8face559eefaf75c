"""`int8`: a fake-quantized network as an integer program with the same logits, bit for bit.

The fake-quantized graph computes on integers held in float32; this one computes on arrays of int8
and int32: int8 x int8 -> int32 in layers, fixed-point arithmetic between them. Real scales become
integer multipliers.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from hcjax.errors import ConfigError
from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import Graph, Model, Op, live_ops, unused_name
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.kind import LAYER, SUM
from hcjax.graph.ops.table import defined, family
from hcjax.graph.qtensor import QTensor
from hcjax.quantize.calibration.ranges import Ranges
from hcjax.quantize.fake import check_float, fake_quantize
from hcjax.quantize.spec import QuantSpec, with_fields

_INT32_MAX = 2**31 - 1


def int8(
    model: Model,
    ranges: Ranges | None = None,
    spec: QuantSpec | None = None,
    **fields: Any,
) -> Model:
    """Returns the network as an integer program, with the logits of the fake-quantized one.

    Args:
      model: from `fake_quantize`; with ranges, a model in float, which is quantized first.
      ranges: from `calibrate` of the model; None for a model from `fake_quantize`.
      spec, **fields: as in `fake_quantize`; only with ranges.

    Returns:
      Model whose kernels are QTensors; its other params are `NAME/multiplier`, `NAME/offset` and
      `NAME/shift` int32[...] of each requantization, `NAME/table` int8 of each look-up table, the
      scale of the input and the scale of the logits. float32 logits = (int32 sum) · scale. Ops that
      stay in float are listed in `floats`; their kernels are QTensors too.

    Raises:
      TypeError: if the model is not quantized and there are no ranges, or a field is unknown.
      ConfigError: if fields of the spec are given without ranges: the model is quantized already.
      ValueError: if the model is in integers already, a parameter is not finite, or a sum could
        exceed 32 bits; the message names the parameter or the layer.

    Example:
      >>> import jax.numpy as jnp
      >>> from hcjax.quantize.calibration import ranges as observe
      >>> from hcjax import trace
      >>> images = jnp.array([[1.0, -2.0]])
      >>> model = trace(lambda p, x: x @ p["w"], {"w": jnp.array([[0.5], [1.0]])}, images)
      >>> small = int8(model, observe.calibrate(model, images, method="minmax"))
      >>> small.params["w"].values.tolist()
      [[64], [127]]
      >>> small.apply(small.params, images).round(1).tolist()
      [[-1.5]]
    """
    check_float(model)
    spec = with_fields(spec, fields)
    if ranges is not None:
        model = fake_quantize(model, ranges, spec)
    if not any(op.kind == "step" for op in model.graph.ops):
        raise TypeError(
            "the model is not quantized: give int8(model, ranges) with ranges = calibrate(model, "
            "images), or a model from fake_quantize"
        )
    defaults = QuantSpec()._asdict()
    given = [key for key, value in spec._asdict().items() if value != defaults[key]]
    if ranges is None and given:
        raise ConfigError(f"{given[0]}: the model is quantized already; give it to fake_quantize")
    for path, leaf in model.leaves(model.params).items():
        if not np.isfinite(leaf).all():
            raise ValueError(f"{path} is not finite")
    program = Program(model)
    for op in program.batch_ops:
        program.add(op)
    for number in model.graph.outputs:
        program.keep(number)
    ops = tuple(live_ops(program.ops, model.graph.outputs))
    used = {i for op in ops for i in op.inputs}.union(model.graph.outputs)
    numbers = {path: n for path, n in program.numbers.items() if n in used}
    return model.replace(
        graph=Graph(
            ops,
            model.graph.inputs,
            model.graph.outputs,
            numbers,
            {n: v for n, v in program.constants.items() if n in used},
        ),
        params={path: program.params[path] for path in numbers},
        paths=tuple(sorted(numbers)),
    )


class Program:
    """The integer graph under construction; its activations keep the fake graph's numbers.

    batch_ops: ops of the fake graph that depend on the images. values: its constants. producers:
    number -> op that computes it. integers: numbers that hold integers in the new graph.
    """

    def __init__(self, model: Model):
        self.batch_ops, self.values, _ = evaluate_constants(model)
        self.producers = {op.output: op for op in model.graph.ops}
        self.ops: list[Op] = []
        self.params: dict[str, Any] = {}
        self.numbers: dict[str, int] = {}
        self.constants: dict[int, Any] = {}
        self.integers = {
            n for n in self.values if n in self.producers and self.producers[n].kind == "quantize"
        }
        self._kernels: dict[int, int] = {}
        self._dequantized: dict[int, int] = {}
        self._paths = {number: path for path, number in model.graph.params.items()}
        self._next = max([*self.values, model.graph.last])

    def add(self, op: Op) -> None:
        """Adds the integer form of an op of the fake graph."""
        convert = _CONVERTERS.get(op.kind)
        activations = [i for i in op.inputs if i not in self.values] or op.inputs
        if convert is None and activations and self.integers.issuperset(activations):
            convert = _convert_sum if _accumulates(op) else _convert_move
        table = self.producers.get(op.inputs[0]) if op.kind == "gather" else None
        if table is not None and table.kind == "quantize_kernel":
            convert = _convert_gather
        if convert is None:
            self._add_float(op)
            return
        inputs, params, dtype = convert(self, op)
        self.ops.append(defined(op, inputs=inputs, params=params, dtype=jnp.dtype(dtype)))
        if dtype != jnp.float32:
            self.integers.add(op.output)

    def parameter(self, path: str, value: Any) -> int:
        """Adds a parameter, and returns its number."""
        name = unused_name(path, self.params)
        self._next += 1
        self.params[name], self.numbers[name] = value, self._next
        return self._next

    def keep(self, number: int) -> None:
        """Keeps an output that no op computes."""
        if number in self._paths:
            self.params[self._paths[number]] = self.values[number]
            self.numbers[self._paths[number]] = number
        elif number in self.values and all(number not in op.outputs for op in self.ops):
            self.constants[number] = self.values[number]

    def kernel(self, number: int) -> int:
        """Returns the number of a quantized kernel, added as a QTensor on first use."""
        if number not in self._kernels:
            quantize = self.producers[number]
            path = self._paths.get(quantize.inputs[0], "kernel")
            values = jnp.asarray(np.asarray(self.values[number]).astype(np.int8))
            scale = jnp.asarray(self.values[quantize.inputs[1]], jnp.float32)
            q = QTensor(values, scale, None, quantize.params["bits"], quantize.params["axis"])
            channels = quantize.params["channels"]
            others = tuple(a for a in range(values.ndim) if a != channels)
            bounds = np.abs(np.asarray(values, np.int64)).sum(others)
            if channels is not None and bounds.size and int(bounds.max()) * 128 > _INT32_MAX:
                raise ValueError(f"{path}: sums of up to {int(bounds.max()) * 128:,} exceed int32")
            self._kernels[number] = self.parameter(path, q)
        return self._kernels[number]

    def _add_float(self, op: Op) -> None:
        """Adds an op in float; its kernel is dequantized first."""
        inputs = []
        for i in op.inputs:
            producer = self.producers.get(i)
            if i in self.values and producer and producer.kind == "dequantize_kernel":
                kernel = self.kernel(producer.inputs[0])
                if kernel not in self._dequantized:  # the ops of one loop read one array
                    self._next += 1
                    made = defined(producer, inputs=(kernel,), outputs=(self._next,))
                    self.ops.append(made)
                    self._dequantized[kernel] = self._next
                inputs.append(self._dequantized[kernel])
            elif i in self._paths:
                path = self._paths[i]
                number = self.numbers.get(path)
                inputs.append(number or self.parameter(path, self.values[i]))
            else:
                if i in self.values:
                    self.constants[i] = self.values[i]
                inputs.append(i)
        self.ops.append(op._replace(inputs=tuple(inputs)))


# (inputs, params, dtype of its result)
Converted = tuple[tuple[int, ...], dict, Any]


def _accumulates(op: Op) -> bool:
    """Returns whether an op of int8 operands has an int32 result: a sum or a product."""
    return family(op) in (LAYER, SUM) or op.kind == "mul"


def _convert_sum(p: Program, op: Op) -> Converted:
    inputs = tuple(p.kernel(i) if i in p.values else i for i in op.inputs)
    return inputs, op.params, jnp.int32


def _convert_move(p: Program, op: Op) -> Converted:
    for i in op.inputs:
        if i in p.values:  # a padding value, an index, or an array that all images share
            value = np.asarray(p.values[i])
            floating = jnp.issubdtype(value.dtype, jnp.floating)
            p.constants[i] = value.astype(np.int8) if floating else value
    return op.inputs, op.params, jnp.int32 if op.dtype == jnp.int32 else jnp.int8


def _convert_gather(p: Program, op: Op) -> Converted:
    """Gathers rows of a table of integers."""
    table, index = op.inputs
    return (p.kernel(table), index), op.params, jnp.int8


def _convert_quantize(p: Program, op: Op) -> Converted:
    x, scale = op.inputs
    number = p.parameter(f"{op.params['label']}/step", jnp.asarray(p.values[scale]))
    return (x, number), op.params, jnp.int8


def _convert_requantize(p: Program, op: Op) -> Converted:
    params = op.params
    bounds, label = params["bounds"], params["label"]
    count = len(bounds)
    scale = jnp.asarray(p.values[op.inputs[-1]])
    scales = [jnp.asarray(p.values[i]) for i in op.inputs[2 * count : 3 * count]]
    offset = jnp.asarray(p.values[op.inputs[-2]]) if params["offset"] else None
    fixed = fixed_point.multipliers(scales, bounds, offset, scale, params["zero"], compiled=True)
    if (np.asarray(fixed.room) < 0).any():
        raise ValueError(
            f"{label}: its scale {float(scale):.3g} is so small that sums of up to {max(bounds):,} "
            "could exceed int32; calibrate with images that give it larger values"
        )
    limits = params["least"], params["most"]
    clips = fixed_point.clips(params["low"], params["high"], *limits, scale, params["zero"])
    qmin, qmax = map(int, clips)
    numbers = [p.parameter(f"{label}/multiplier", m) for m in fixed.multipliers]
    numbers += [p.parameter(f"{label}/offset", fixed.offset)]
    numbers += [p.parameter(f"{label}/shift", fixed.shift)]
    dtype = jnp.int8 if qmin >= -128 and qmax <= 127 else jnp.int32
    return (*op.inputs[:count], *numbers), {"bounds": bounds, "least": qmin, "most": qmax}, dtype


def _convert_look_up(p: Program, op: Op) -> Converted:
    table = jnp.asarray(p.values[op.inputs[1]]).astype(jnp.int8)
    number = p.parameter(f"{op.params['label']}/table", table)
    return (op.inputs[0], number), op.params, jnp.int8


def _convert_dequantize(p: Program, op: Op) -> Converted:
    params, label = op.params, op.params["label"]
    scale = jnp.asarray(p.values[op.inputs[2]])
    flat = scale.reshape(-1 if params["axis"] >= 0 else ())
    numbers = [p.parameter(f"{label}/scale", flat)]
    if params["offset"]:
        real = fixed_point.over(jnp.asarray(p.values[op.inputs[3]]), scale)
        largest = float(jnp.abs(real).max())
        if not largest + params["bound"] <= _INT32_MAX or not largest < 2**29:
            raise ValueError(
                f"{label}: its bias / scale is {largest:,.0f}, which int32 cannot hold; training "
                "has made a scale tiny: leave the layer in float, floats=..., or quantize anew"
            )
        offset = fixed_point.whole(real)
        numbers.append(p.parameter(f"{label}/offset", offset))
    return (op.inputs[0], *numbers), params, jnp.float32


# kind of the fake graph -> its converter
_CONVERTERS = {
    "quantize": _convert_quantize,
    "requantize": _convert_requantize,
    "look_up": _convert_look_up,
    "dequantize": _convert_dequantize,
}
