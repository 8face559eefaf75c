"""The integer graph in the making: what each op of a fake-quantized graph is in integers."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from hcjax.graph.constants import evaluate_constants
from hcjax.graph.model import Model, Op, unused_name
from hcjax.graph.ops import fixed_point
from hcjax.graph.ops.kind import LAYER, SUM
from hcjax.graph.ops.table import defined, family
from hcjax.graph.qtensor import QTensor

_MOST = 2**31 - 1  # of int32


class Program:
    """The integer graph in the making; numbers of what depends on images are the fake graph's."""

    def __init__(self, model: Model):
        self.read, self.values, _ = evaluate_constants(model)
        self.made = {op.output: op for op in model.graph.ops}
        self.ops: list[Op] = []
        self.params: dict[str, Any] = {}
        self.numbers: dict[str, int] = {}
        self.constants: dict[int, Any] = {}
        # numbers that are integers now
        self.whole = {n for n in self.values if n in self.made and self.made[n].kind == "quantize"}
        self._kernels: dict[int, int] = {}
        self._paths = {number: path for path, number in model.graph.params.items()}
        self._next = max([*self.values, *self.made, model.graph.images], default=0)

    def add(self, op: Op) -> None:
        """Adds what an op of the fake graph is in integers."""
        convert = _CONVERTED.get(op.kind)
        inside = [i for i in op.inputs if i not in self.values] or op.inputs
        if convert is None and inside and self.whole.issuperset(inside):
            convert = _counted if _sums(op) else _moved
        if op.kind == "gather" and op.inputs[0] in self.whole & self.values.keys():
            convert = _rows
        if convert is None:
            self._kept(op)
            return
        inputs, params, dtype = convert(self, op)
        about = {"inputs": inputs, "params": params, "dtype": jnp.dtype(dtype)}
        self.ops.append(defined(op, **about))
        if dtype != jnp.float32:
            self.whole.add(op.output)

    def parameter(self, path: str, value: Any) -> int:
        """Adds a parameter, and returns its number."""
        name = unused_name(path, self.params)
        self._next += 1
        self.params[name], self.numbers[name] = value, self._next
        return self._next

    def path_of(self, number: int) -> str | None:
        """Returns the path of a parameter of the fake graph; None for another number."""
        return self._paths.get(number)

    def kernel(self, number: int) -> int:
        """Returns the number of a rounded kernel, a QTensor."""
        if number not in self._kernels:
            made = self.made[number]
            path = self._paths.get(made.inputs[0], "kernel")
            values = jnp.asarray(self.values[number]).astype(jnp.int8)
            scale = jnp.asarray(self.values[made.inputs[1]], jnp.float32)
            q = QTensor(values, scale, None, made.params["bits"], made.params["axis"])
            channels = made.params["channels"]
            others = tuple(a for a in range(values.ndim) if a != channels)
            reach = np.abs(np.asarray(values, np.int64)).sum(others)
            if channels is not None and reach.size and int(reach.max()) * 128 > _MOST:
                raise ValueError(f"{path}: sums of up to {int(reach.max()) * 128:,} pass int32")
            self._kernels[number] = self.parameter(path, q)
        return self._kernels[number]

    def _kept(self, op: Op) -> None:
        """Adds an op as it is, in float."""
        inputs = []
        for i in op.inputs:
            if i in self.values and (made := self.made.get(i)) and made.kind == "dequantize_kernel":
                kernel = (self.kernel(made.inputs[0]),)
                self._next += 1
                outputs = (self._next,)
                self.ops.append(defined(made, inputs=kernel, outputs=outputs))
                inputs.append(self._next)
            elif i in self._paths:
                path = self._paths[i]
                known = self.numbers.get(path)
                inputs.append(known or self.parameter(path, self.values[i]))
            else:
                if i in self.values:
                    self.constants[i] = self.values[i]
                inputs.append(i)
        self.ops.append(op._replace(inputs=tuple(inputs)))


# (inputs, params, dtype of its result)
Converted = tuple[tuple[int, ...], dict, Any]


def _sums(op: Op) -> bool:
    """Returns whether an op of int8 is int32: it adds up, or multiplies."""
    return family(op) in (LAYER, SUM) or op.kind == "mul"


def _counted(p: Program, op: Op) -> Converted:
    inputs = tuple(p.kernel(i) if i in p.values else i for i in op.inputs)
    return inputs, op.params, jnp.int32


def _moved(p: Program, op: Op) -> Converted:
    for i in op.inputs:
        if i in p.values:  # what padding is made of, an index, or what every image has the same of
            value = np.asarray(p.values[i])
            floating = jnp.issubdtype(value.dtype, jnp.floating)
            p.constants[i] = value.astype(np.int8) if floating else value
    return op.inputs, op.params, jnp.int8


def _rows(p: Program, op: Op) -> Converted:
    """Takes rows of a table of int8."""
    table, index = op.inputs
    made = p.made[table]
    path = p.path_of(made.inputs[0]) or f"{made.params['label']}/table"
    number = p.parameter(path, jnp.asarray(p.values[table]).astype(jnp.int8))
    return (number, index), op.params, jnp.int8


def _quantize(p: Program, op: Op) -> Converted:
    x, step = op.inputs
    number = p.parameter(f"{op.params['label']}/step", jnp.asarray(p.values[step]))
    return (x, number), op.params, jnp.int8


def _requantize(p: Program, op: Op) -> Converted:
    about = op.params
    bounds, label = about["bounds"], about["label"]
    count = len(bounds)
    step = jnp.asarray(p.values[op.inputs[-1]])
    scales = [jnp.asarray(p.values[i]) for i in op.inputs[2 * count : 3 * count]]
    offset = jnp.asarray(p.values[op.inputs[-2]]) if about["offset"] else None
    fixed = fixed_point.multipliers(scales, bounds, offset, step)
    if bool((fixed.room < 0).any()):
        raise ValueError(
            f"{label}: its step {float(step):.3g} is so small that sums of up to {max(bounds):,} "
            "could pass int32 on their way to it; calibrate it with images that reach further"
        )
    clips = fixed_point.clips(about["low"], about["high"], about["least"], about["most"], step)
    least, most = map(int, clips)
    numbers = [p.parameter(f"{label}/multiplier", m) for m in fixed.multipliers]
    numbers += [p.parameter(f"{label}/offset", fixed.offset)]
    numbers += [p.parameter(f"{label}/shift", fixed.shift)]
    dtype = jnp.int8 if least >= -128 and most <= 127 else jnp.int32
    return (*op.inputs[:count], *numbers), {"bounds": bounds, "least": least, "most": most}, dtype


def _look_up(p: Program, op: Op) -> Converted:
    table = jnp.asarray(p.values[op.inputs[1]]).astype(jnp.int8)
    number = p.parameter(f"{op.params['label']}/table", table)
    return (op.inputs[0], number), op.params, jnp.int8


def _dequantize(p: Program, op: Op) -> Converted:
    about, label = op.params, op.params["label"]
    scale = jnp.asarray(p.values[op.inputs[2]])
    flat = scale.reshape(-1 if about["axis"] >= 0 else ())
    numbers = [p.parameter(f"{label}/scale", flat)]
    if about["offset"]:
        offset = fixed_point.whole(fixed_point.over(jnp.asarray(p.values[op.inputs[3]]), scale))
        most = int(jnp.abs(offset).max())
        if most + about["bound"] > _MOST or most >= 2**29:
            raise ValueError(f"{label}: its bias is {most:,} steps, which int32 cannot hold")
        numbers.append(p.parameter(f"{label}/offset", offset))
    return (op.inputs[0], *numbers), about, jnp.float32


# by the kinds that only the fake graph has
_CONVERTED = {
    "quantize": _quantize,
    "requantize": _requantize,
    "look_up": _look_up,
    "dequantize": _dequantize,
}
